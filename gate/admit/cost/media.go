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
	q                       float64
	anyType, anySubtype, ok bool
	media                   Media // what it comes to, if ok: the API server can serve it
}

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
		if n == 0 && c.ok && c.q == 1 && !c.anyType && !c.anySubtype && !strings.Contains(rest, "q") {
			return c.media // nothing comes before it: the rule, and what follows need not be read
		}
		at := n
		for ; at > 0 && c.before(&clauses[at-1]); at-- {
			clauses[at] = clauses[at-1]
		}
		clauses[at] = c
		n++
	}
	for i := range clauses[:n] {
		if clauses[i].ok {
			return clauses[i].media
		}
	}
	return OtherMedia
}

// before is goautoneg's order, which is none: a specific type comes before a wildcard with a higher q if it follows it, and
// behind if it does not. What counts is what the API server does.
func (c *clause) before(other *clause) bool {
	return c.q > other.q || !c.anyType && other.anyType || !c.anySubtype && other.anySubtype
}

// parseClause reads one clause; ok is false for one that is passed over.
func parseClause(text string) (c clause, ok bool) {
	name, rest, _ := strings.Cut(trim(text), ";")
	major, subtype, _ := strings.Cut(name, "/")
	subtype, more, _ := strings.Cut(subtype, "/")
	major = trim(major)
	switch {
	case more != "", subtype == "" && (major != "*" || strings.Contains(name, "//")):
		return c, false
	case subtype == "":
		subtype = "*"
	}
	subtype = trim(subtype)
	c.anyType, c.anySubtype = major == "*", subtype == "*"
	var p parameters
	c.q, p = parseParameters(rest)
	c.media, c.ok = mediaFor(major, subtype, &p)
	return c, true
}

// parameters are those that the API server knows.
type parameters struct {
	// as, group and version are the kind that objects are to be converted to, if convert.
	as, group, version string
	convert            bool
	stream, sv         string
}

func parseParameters(rest string) (q float64, p parameters) {
	q = 1
	for rest != "" {
		var parameter string
		parameter, rest, _ = strings.Cut(rest, ";")
		name, value, _ := strings.Cut(parameter, "=")
		if value == "" {
			continue
		}
		value, more, _ := strings.Cut(value, "=")
		if more != "" {
			continue
		}
		switch trim(name) {
		case "q":
			q, _ = strconv.ParseFloat(value, 32) // as goautoneg: 0 for what is no number
		case "as":
			p.as, p.convert = trim(value), true
		case "g":
			p.group, p.convert = trim(value), true
		case "v":
			p.version, p.convert = trim(value), true
		case "stream":
			p.stream = trim(value)
		case "sv":
			p.sv = trim(value)
		}
	}
	return q, p
}

func trim(s string) string { return strings.Trim(s, " ") }

// mediaFor is what the API server makes of a media type; ok is false if it cannot serve it. What a wildcard leaves open is
// JSON.
func mediaFor(major, subtype string, p *parameters) (media Media, ok bool) {
	if p.stream != "" && p.stream != "watch" || p.sv != "" && p.sv != "v1" {
		return OtherMedia, false
	}
	switch {
	case major == "*" && subtype == "*", major == "application" && (subtype == "*" || subtype == "json"):
		media = JSON
	case major != "application":
		return OtherMedia, false
	case subtype == "vnd.kubernetes.protobuf":
		media = Protobuf
	case subtype == "cbor", subtype == "cbor-seq":
		media = CBOR
	case subtype == "yaml" && p.stream == "": // it is not streamed
		media = OtherMedia
	default:
		return OtherMedia, false
	}
	return converted(media, p)
}

// converted is what becomes of a media type in which objects are wanted as another kind, if the API server does that.
func converted(media Media, p *parameters) (Media, bool) {
	if !p.convert {
		return media, true
	}
	if p.group != "meta.k8s.io" || p.version != "v1" && p.version != "v1beta1" {
		return OtherMedia, false
	}
	switch p.as {
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
