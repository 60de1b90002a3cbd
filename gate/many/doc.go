// Package many holds no code, only tests of several gates as processes before a real control plane: what one is told all do,
// and the Service default/kubernetes stands for those that are alive.
package many
