// Package plugin is the CoreDNS plugin seakeep.
package plugin
