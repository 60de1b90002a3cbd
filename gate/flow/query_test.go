package flow

import (
	"net/http"
	"net/url"
	"testing"
)

func TestFlag(t *testing.T) {
	for query, want := range map[string]bool{
		"": false, "a": true, "a=": true, "a=true": true, "a=1": true, "a=yes": true,
		"a=0": false, "a=false": false, "a=False": false, "a=FALSE": false, "a=false&a=true": false, "b=true": false,
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got := Flag(values, "a"); got != want {
			t.Errorf("%q: want %t, got %t", query, want, got)
		}
	}
}

func TestAcceptsGzip(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "gzip": true, " gzip ": true, "deflate, gzip": true, "identity": false, "*": false,
		"gzip;q=0": false, "gzip;q=1": false, "gzip ;q=0, gzip": true,
	} {
		if got := AcceptsGzip(http.Header{"Accept-Encoding": {accept}}); got != want {
			t.Errorf("%q: want %t, got %t", accept, want, got)
		}
	}
	if AcceptsGzip(http.Header{"Accept-Encoding": {"identity", "gzip"}}) {
		t.Error("the API server looks at the first header only")
	}
}
