// Package config reads every kind a user writes. It is the one loader: strict (an unknown field, a duplicate key or a
// wrong type is refused), complete (every violation of a file is reported at once, not the first), and exact (each
// with file, line, field, value and the rule it breaks). In an outage a configuration file is edited by hand, by tired
// people, against a running gate: what is wrong must be said once, in full, and change nothing.
//
// The order is fixed: decode strictly, SetDefaults, Validate. What needs a file or a clock (an unreadable key, an
// expired certificate) is checked by Document.CheckFiles, or where the file is loaded, and reported the same way
// through Document.Errorf.
package config
