package watch

import (
	"strings"

	"github.com/seakeep/seakeep/gate/relay/frame"
)

// canonical is an Accept header that the API server answers as it does the given one, so that clients that say the same in
// different words share: client-go alone has "application/json", "application/json, */*", protobuf with and without
// either behind it, and nothing at all. What has parameters, or names anything else, stays what it is.
//
// The API server takes the first clause it can serve, wildcards last; without any it writes JSON, which it always can.
func canonical(accept string) string {
	var named []string
	wildcard := strings.TrimSpace(accept) == ""
	for clause := range strings.SplitSeq(accept, ",") {
		switch clause = strings.TrimSpace(clause); clause {
		case "*/*":
			wildcard = true
		case frame.JSON, frame.Protobuf:
			named = append(named, clause)
		case "":
		default:
			return accept
		}
	}
	switch {
	case len(named) == 0 && wildcard, len(named) > 0 && named[0] == frame.JSON:
		return frame.JSON
	case len(named) > 1 || wildcard:
		return frame.Protobuf + "," + frame.JSON
	}
	return frame.Protobuf
}

// AsTable is true when some clause of an Accept header asks for a Table.
func AsTable(accept string) bool { return strings.Contains(accept, "as=Table") }
