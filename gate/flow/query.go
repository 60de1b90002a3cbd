package flow

import (
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
)

// Flag reads a boolean of a query with the API server's own function: absent, "0" and "false" in any case are false, and
// everything else is true, the empty value too.
func Flag(query url.Values, name string) bool {
	values, on := query[name], false
	if err := runtime.Convert_Slice_string_To_bool(&values, &on, nil); err != nil {
		return false // it never fails
	}
	return on
}

// AcceptsGzip reads Accept-Encoding as the API server does: the first such header, and in it "gzip" to the letter. A client
// that gives it a weight, which may be 0, gets its answer as it is.
func AcceptsGzip(h http.Header) bool {
	for coding := range strings.SplitSeq(h.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(coding) == "gzip" {
			return true
		}
	}
	return false
}

// CutPair takes the first parameter off a raw query, read as net/url reads it, and returns what is left. It allocates only
// where something is escaped, for those that look for a few parameters in each request. ok is false for what net/url
// drops: an empty parameter, a semicolon, an escape that is none.
func CutPair(query string) (name, value, rest string, ok bool) {
	pair, rest, _ := strings.Cut(query, "&")
	if pair == "" || strings.Contains(pair, ";") {
		return "", "", rest, false
	}
	name, value, _ = strings.Cut(pair, "=")
	name, err := url.QueryUnescape(name)
	if err != nil {
		return "", "", rest, false
	}
	value, err = url.QueryUnescape(value)
	if err != nil {
		return "", "", rest, false
	}
	return name, value, rest, true
}
