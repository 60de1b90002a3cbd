package identity

import (
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func TestStripHeaders(t *testing.T) {
	tests := map[string]struct {
		headers  http.Header
		want     []string
		wantFail bool
	}{
		"identity headers in every spelling go": {
			headers: http.Header{
				"X-Remote-User": {"root"}, "x-remote-group": {"system:masters"}, "X_Remote_User": {"root"}, "X-Remote-Uid": {"0"},
				"X-Remote-Extra-Scopes": {"all"}, "X-REMOTE_EXTRA-A": {"b"}, "Impersonate_User": {"root"}, "AUTHORIZATION_": {"x"},
				"Accept": {"application/json"},
			},
			want: []string{"AUTHORIZATION_", "Accept"},
		},
		"a client may ask to act as someone else": {
			headers: http.Header{"Impersonate-User": {"jane"}, "Impersonate-Group": {"dev"}},
			want:    []string{"Impersonate-Group", "Impersonate-User"},
		},
		"connection names the gate's header": {
			headers: http.Header{"Connection": {"close, X-Remote-User"}}, wantFail: true,
		},
		"connection takes off the client's own impersonation": {
			headers: http.Header{"Connection": {"Impersonate-User"}, "Impersonate-User": {"jane"}}, wantFail: true,
		},
		"connection with a leading space and an underscore": {
			headers: http.Header{"Connection": {"keep-alive", " impersonate_user "}}, wantFail: true,
		},
		"connection takes off the token": {
			headers: http.Header{"Connection": {"authorization"}}, wantFail: true,
		},
		"an upgrade is untouched": {
			headers: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}},
			want:    []string{"Connection", "Upgrade"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := StripHeaders(test.headers)
			if test.wantFail {
				if !errors.Is(err, ErrBadHeaders) {
					t.Fatalf("got error %v, want ErrBadHeaders", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, slices.Sorted(maps.Keys(test.headers))); diff != "" {
				t.Errorf("headers left (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzStripHeaders(f *testing.F) {
	f.Add("X-Remote-User", "root", "close")
	f.Add("x_remote-extra-a", "b", "X-Remote-User")
	f.Fuzz(func(t *testing.T, name, value, connection string) {
		h := http.Header{name: {value}, "Connection": {connection}}
		if StripHeaders(h) != nil {
			return
		}
		for left := range h {
			if folded := fold(left); len(folded) >= len(remotePrefix) && folded[:len(remotePrefix)] == remotePrefix {
				t.Errorf("header %q is left", left)
			}
		}
	})
}

func TestSetHeaders(t *testing.T) {
	caller := flow.Caller{
		User: "jane", UID: "42", Groups: []string{"dev", authenticatedGroup}, Certainty: flow.CertificateVerified,
		Extra: map[string][]string{"authentication.kubernetes.io/credential-id": {"X509SHA256=ab"}},
	}
	tests := map[string]struct {
		mode v1alpha1.IdentityMode
		want http.Header
	}{
		"front proxy": {v1alpha1.FrontProxy, http.Header{
			"X-Remote-User": {"jane"}, "X-Remote-Uid": {"42"}, "X-Remote-Group": {"dev"},
			"X-Remote-Extra-Authentication.kubernetes.io%2fcredential-Id": {"X509SHA256=ab"},
		}},
		"impersonation": {v1alpha1.Impersonation, http.Header{
			"Impersonate-User": {"jane"}, "Impersonate-Uid": {"42"}, "Impersonate-Group": {"dev"},
			"Impersonate-Extra-Authentication.kubernetes.io%2fcredential-Id": {"X509SHA256=ab"},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/api", nil)
			r.Header.Set("Authorization", "Bearer left-over")
			SetHeaders(r, &caller, test.mode)
			if diff := cmp.Diff(test.want, r.Header); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("a token speaks for itself", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodGet, "/api", nil)
		r.Header.Set("Authorization", "Bearer mine")
		SetHeaders(r, &flow.Caller{User: "sa", Certainty: flow.TokenVerified, Bearer: true}, v1alpha1.FrontProxy)
		if diff := cmp.Diff(http.Header{"Authorization": {"Bearer mine"}}, r.Header); diff != "" {
			t.Errorf("headers (-want +got):\n%s", diff)
		}
	})
}

func FuzzBearerToken(f *testing.F) {
	f.Add("Bearer abc", "base64url.bearer.authorization.k8s.io.YWJj, v4.channel.k8s.io")
	f.Add("bearer  x y", "")
	f.Fuzz(func(t *testing.T, authorization, protocols string) {
		r := httptest.NewRequest(http.MethodGet, "/api", nil)
		r.Header = http.Header{"Authorization": {authorization}, "Sec-Websocket-Protocol": {protocols}}
		if token, ok := bearerToken(r); ok && token == "" {
			t.Error("an empty token was found")
		}
	})
}
