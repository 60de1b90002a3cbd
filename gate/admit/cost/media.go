package cost

import (
	"net/http"
	"strconv"
	"strings"
)

// mostClauses bounds what is read of an Accept header; kubectl sends three. Up to twelve, the sort of the API server's is an
// insertion sort, whose order is known.
const mostClauses = 12

// clause is one alternative of an Accept header.
type clause struct {
	kind, subtype string
	q             float64
	as            kind
	// stream and sv are parameters that the API server refuses a clause for.
	stream, sv string
}

// kind is what a client wants objects converted to.
type kind struct{ name, group, version string }

// mediaOf reads Accept as the API server negotiates (github.com/munnerz/goautoneg and
// k8s.io/apiserver/pkg/endpoints/handlers/negotiation): the first clause that it can serve, after sorting.
func mediaOf(h http.Header) Media {
	accept := ""
	if values := h["Accept"]; len(values) > 0 {
		accept = values[0]
	}
	switch accept {
	case "", "application/json", "*/*":
		return JSON
	case "application/vnd.kubernetes.protobuf":
		return Protobuf
	}
	var clauses [mostClauses]clause
	n := 0
	for rest := accept; rest != "" && n < len(clauses); {
		var text string
		text, rest, _ = strings.Cut(rest, ",")
		c, ok := parseClause(text)
		if !ok {
			continue
		}
		at := n
		for ; at > 0 && c.before(&clauses[at-1]); at-- {
			clauses[at] = clauses[at-1]
		}
		clauses[at] = c
		n++
	}
	for i := range clauses[:n] {
		if media, ok := clauses[i].media(); ok {
			return media
		}
	}
	return OtherMedia
}

// before is goautoneg's order, which is none: a specific type comes before a wildcard with a higher q if it follows it, and
// behind if it does not. What counts is what the API server does.
func (c *clause) before(other *clause) bool {
	return c.q > other.q || c.kind != "*" && other.kind == "*" || c.subtype != "*" && other.subtype == "*"
}

// parseClause reads one clause; ok is false for one that is passed over.
func parseClause(text string) (c clause, ok bool) {
	name, parameters, _ := strings.Cut(trim(text), ";")
	kind, subtype, _ := strings.Cut(name, "/")
	c.q, c.kind, c.subtype = 1, trim(kind), trim(subtype)
	switch {
	case subtype == "" && c.kind == "*":
		c.subtype = "*"
	case subtype == "":
		return c, false
	}
	if subtype, more, _ := strings.Cut(subtype, "/"); more != "" {
		return c, false
	} else if subtype != "" {
		c.subtype = trim(subtype)
	}
	for parameters != "" {
		var parameter string
		parameter, parameters, _ = strings.Cut(parameters, ";")
		name, value, _ := strings.Cut(parameter, "=")
		value, more, _ := strings.Cut(value, "=")
		if value == "" && more == "" || more != "" {
			continue
		}
		switch trim(name) {
		case "q":
			c.q, _ = strconv.ParseFloat(value, 32) // as goautoneg: 0 for what is no number
		case "as":
			c.as.name = trim(value)
		case "g":
			c.as.group = trim(value)
		case "v":
			c.as.version = trim(value)
		case "stream":
			c.stream = trim(value)
		case "sv":
			c.sv = trim(value)
		}
	}
	return c, true
}

func trim(s string) string { return strings.Trim(s, " ") }

// media is what the API server makes of a clause; ok is false if it cannot serve it. What a wildcard leaves open is JSON.
func (c *clause) media() (media Media, ok bool) {
	if c.stream != "" && c.stream != "watch" || c.sv != "" && c.sv != "v1" {
		return OtherMedia, false
	}
	switch {
	case c.kind == "*" && c.subtype == "*", c.kind == "application" && (c.subtype == "*" || c.subtype == "json"):
		media = JSON
	case c.kind != "application":
		return OtherMedia, false
	case c.subtype == "vnd.kubernetes.protobuf":
		media = Protobuf
	case c.subtype == "cbor", c.subtype == "cbor-seq":
		media = CBOR
	case c.subtype == "yaml" && c.stream == "": // it is not streamed
		media = OtherMedia
	default:
		return OtherMedia, false
	}
	return convert(media, c.as)
}

// convert is what becomes of a media type in which objects are wanted as another kind, if the API server does that.
func convert(media Media, as kind) (Media, bool) {
	if as == (kind{}) {
		return media, true
	}
	if as.group != "meta.k8s.io" || as.version != "v1" && as.version != "v1beta1" {
		return OtherMedia, false
	}
	switch as.name {
	case "Table":
		return Table, media != Protobuf && media != CBOR
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		if media == Protobuf {
			return MetadataProtobuf, true
		}
		return Metadata, true
	}
	return OtherMedia, false
}
