package flow

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

// FuzzCutPair compares with net/url, which the API server uses.
func FuzzCutPair(f *testing.F) {
	for _, query := range []string{
		"", "&", "a", "a=", "=b", "a=b&a=c", "limit=500&continue=ab%3D", "a=%zz&b=1", "a;b=1&c=2", "a+b=c+d", "a=b=c", "%61=1&a=2",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		want, _ := url.ParseQuery(query)
		got := url.Values{}
		for rest := query; rest != ""; {
			var name, value string
			var ok bool
			if name, value, rest, ok = CutPair(rest); ok {
				got.Add(name, value)
			}
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", query, diff)
		}
	})
}
