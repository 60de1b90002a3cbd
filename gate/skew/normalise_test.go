package skew

import (
	"regexp"
	"strings"
	"testing"
)

// differs is what may differ between two runs of one invocation, each way on objects of its own: all of it, in the order
// in which it is replaced. Columns are padded to their longest value, so the blanks after a value go with it.
var differs = []struct {
	what        string
	pattern     *regexp.Regexp
	replacement string
}{
	{"a ServiceAccount's token", regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`), "<token>"},
	{"a certificate", regexp.MustCompile(`LS0tLS1CRUdJTi[\w+/=]+`), "<pem>"},
	{"a UID", regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uid>"},
	{"a time (RFC 3339)", regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "<time>"},
	{"a time (RFC 1123)", regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}`), "<time>"},
	{"a file's time (diff)", regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d{4}`), "<time>"},
	{"the head of a line of kubectl's own log", regexp.MustCompile(`[EWI]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\w+\.go):\d+\]`), "<log> $1]"},
	{"a resource version", regexp.MustCompile(`(resourceVersion\\?"?: ?\\?"?|Resource Version: +)\d+`), "${1}<version>"},
	{"kubectl's own end of a forwarded port", regexp.MustCompile(`(Handling connection for|error occurred forwarding) \d+`), "$1 <port>"},
	{"kubectl's temporary files", regexp.MustCompile(`\S*/(kubectl-edit-|LIVE-|MERGED-)\d+`), "<tmp>/$1"},
	{"an address", regexp.MustCompile(`\b(10|127)\.\d+\.\d+\.\d+(:\d+)?( +|\b)`), "<address> "},
	{"a port that was taken from a range", regexp.MustCompile(`(NodePort:.*|[nN]odePort"?: |\d+:)(3[0-2]\d{3})\b(/TCP *)?`), "${1}<port>$3"},
	{"the suffix of a generated name", regexp.MustCompile(`-[bcdfghjklmnpqrstvwxz2456789]{5}\b`), "-<suffix>"},
	{"an age", regexp.MustCompile(`\b(\d+(ms|[smhd]))+( ago\b)?( \(x\d+ over (\d+[smhd])+\))?( +|\b)`), "<age> "},
	{"a column of ages or addresses", regexp.MustCompile(`\b(AGE|LAST SEEN|CLUSTER-IP|PORT\(S\)|IP|ENDPOINTS|DURATION|LAST SCHEDULE|REQUESTEDDURATION)( +|$)`), "$1 "},
	{"an underline of such a column", regexp.MustCompile(`(----) +`), "$1 "},
}

// normalise replaces what must differ: first the way's own names, then what is listed above.
func normalise(text string, own ...string) string {
	text = strings.NewReplacer(own...).Replace(text)
	for _, d := range differs {
		text = d.pattern.ReplaceAllString(text, d.replacement)
	}
	return text
}

// What is no listed difference must show, or the comparison would pass whatever the gate did.
func TestNormalise(t *testing.T) {
	for name, tc := range map[string]struct {
		one, other string
		same       bool
	}{
		"ages":              {"web-0   1/1     Running   0          9s", "web-0   1/1     Running   0          10s", true},
		"a column after":    {"web   9s    web    nginx", "web   10s   web    nginx", true},
		"addresses":         {"svc   ClusterIP   10.96.0.1    <none>", "svc   ClusterIP   10.100.200.1   <none>", true},
		"a status":          {"web-0   1/1     Running   0          9s", "web-0   1/1     Pending   0          9s", false},
		"resource versions": {`"resourceVersion": "5"`, `"resourceVersion": "700"`, true},
		"generations":       {`"generation": 1`, `"generation": 2`, false},
		"pods' suffixes":    {"pod/web-7c5ddbdf54-x2x9z", "pod/web-7c5ddbdf54-bbbbb", true},
		"names":             {"pod/web", "pod/wed", false},
		"node ports":        {"80:30001/TCP   9s", "80:32767/TCP   9s", true},
		"ports":             {"80/TCP", "81/TCP", false},
		"a missing line":    {"a\nb\n", "a\n", false},
		"own names":         {"in way-a-get", "in way-b-get", true},
	} {
		t.Run(name, func(t *testing.T) {
			one, other := normalise(tc.one, "way-a-", "<way>-"), normalise(tc.other, "way-b-", "<way>-")
			if same := one == other; same != tc.same {
				t.Errorf("taken for the same: %t, want %t\n%s\n%s", same, tc.same, one, other)
			}
		})
	}
}
