package identity

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/seakeep/seakeep/internal/pki"
)

// A certificate whose words another server would read differently is refused: an authority that signs no certificate of
// system:masters (the API server's CertificateSubjectRestriction compares letter by letter) may well sign these.
func TestWordsThatChangeInAHeaderAreRefused(t *testing.T) {
	ca := authority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	a := New(Options{ClientCAs: pool, RefuseGroups: []string{"system:masters"}, Tokens: accept("good"), Clock: time.Now})
	for name, spec := range map[string]pki.Spec{
		"a space after the group":           {CommonName: "mallory", Organizations: []string{"system:masters "}},
		"a space before the group":          {CommonName: "mallory", Organizations: []string{" system:masters"}},
		"a tab":                             {CommonName: "mallory", Organizations: []string{"system:masters\t"}},
		"a space that is not ASCII":         {CommonName: "mallory", Organizations: []string{"system:masters\u00a0"}},
		"a second header":                   {CommonName: "mallory", Organizations: []string{"dev\r\nX-Remote-Group: system:masters"}},
		"a line's end":                      {CommonName: "mallory", Organizations: []string{"system:masters\n"}},
		"a NUL":                             {CommonName: "mallory", Organizations: []string{"system:masters\x00"}},
		"among others":                      {CommonName: "mallory", Organizations: []string{"dev", "system:masters ", "ops"}},
		"a user's name":                     {CommonName: "system:kube-controller-manager "},
		"a user's name with a header in it": {CommonName: "jane\nX-Remote-Group: system:masters"},
		"the group itself":                  {CommonName: "mallory", Organizations: []string{"dev", "system:masters"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec.Lifetime = time.Minute
			for _, token := range []string{"", "good"} { // a token beside it is no way round
				r := request(t, ca, spec, token)
				for range 2 { // found, and remembered
					if caller, err := a.Authenticate(r); !errors.Is(err, ErrForbidden) || caller.User != "" {
						t.Errorf("token %q: got %+v, %v; want it forbidden", token, caller, err)
					}
				}
			}
		})
	}
	for name, groups := range map[string][]string{
		"other spellings are other groups": {"System:Masters", "system:masters2", "system masters", "system:masters,dev"},
		"not ASCII":                        {"développeurs"},
	} {
		if _, err := a.Authenticate(request(t, ca, pki.Spec{CommonName: "jane", Organizations: groups, Lifetime: time.Minute}, "")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
