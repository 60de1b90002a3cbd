package watch

import "testing"

func TestCanonical(t *testing.T) {
	const proto, json = "application/vnd.kubernetes.protobuf", "application/json"
	for accept, want := range map[string]string{
		"":                                     json,
		"*/*":                                  json,
		json:                                   json,
		json + ", */*":                         json,
		"*/*, " + json:                         json,
		json + "," + proto:                     json,
		proto:                                  proto,
		proto + "," + json:                     proto + "," + json,
		proto + ", */*":                        proto + "," + json,
		"*/*," + proto:                         proto + "," + json,
		proto + "," + proto:                    proto + "," + json,
		"application/yaml":                     "application/yaml",
		"application/json;q=0.9," + proto:      "application/json;q=0.9," + proto,
		"application/json;as=Table;v=v1":       "application/json;as=Table;v=v1",
		"application/*":                        "application/*",
		"application/cbor, application/json":   "application/cbor, application/json",
		"application/json;stream=watch,text/*": "application/json;stream=watch,text/*",
	} {
		if got := canonical(accept); got != want {
			t.Errorf("%q is %q, want %q", accept, got, want)
		}
	}
}
