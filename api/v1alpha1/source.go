package v1alpha1

import "embed"

// Source is this package's own source. The schema and the commented defaults that `seakeep config` prints are read from
// the types and their comments, so what the user is told is what the code says, with nothing generated in between.
//
//go:embed *.go
var Source embed.FS
