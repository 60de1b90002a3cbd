package identity

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func TestStrip(t *testing.T) {
	usual := v1alpha1.RequestHeaders{}
	renamed := v1alpha1.RequestHeaders{
		Usernames: []string{"Company-User", "X-Remote-User"}, Groups: []string{"Company-Group"}, UIDs: []string{"Company-Uid"}, ExtraPrefixes: []string{"Company-Extra-"},
	}
	tests := map[string]struct {
		names    v1alpha1.RequestHeaders
		headers  http.Header
		want     []string
		wantFail bool
	}{
		"identity headers in every spelling go": {
			headers: http.Header{
				"X-Remote-User": {"root"}, "x-remote-group": {"system:masters"}, "X_Remote_User": {"root"}, "X-Remote-Uid": {"0"},
				"X-Remote-Extra-Scopes": {"all"}, "X-REMOTE_EXTRA-A": {"b"}, "X.Remote.User": {"root"}, "X-Remote-Extra-A%2fb": {"c"},
				"X-Remote-": {"x"}, "X-Remote-Anything": {"x"}, "Impersonate_User": {"root"}, "Impersonate-Extra_A": {"b"}, "impersonate.group": {"c"},
				"Authorization_": {"x"}, "Sec_WebSocket_Protocol": {"base64url.bearer.authorization.k8s.io.YQ"}, "Accept": {"application/json"},
			},
			want: []string{"Accept", "Authorization_"},
		},
		"a client may ask to act as someone else": {
			headers: http.Header{"Impersonate-User": {"jane"}, "impersonate-group": {"dev"}, "Impersonate-Uid": {"7"},
				"Impersonate-Extra-Dotted.example.com%2fa_b": {"c"}, "Impersonate-Extra-Under_score": {"d"}},
			want: []string{"Impersonate-Extra-Dotted.example.com%2fa_b", "Impersonate-Extra-Under_score", "Impersonate-Uid", "Impersonate-User", "impersonate-group"},
		},
		"the names of an API server whose flags rename them go, and the usual ones too": {
			names: renamed,
			headers: http.Header{"Company-User": {"root"}, "company_group": {"a"}, "COMPANY-UID": {"0"}, "Company-Extra-Scopes": {"b"}, "Company.Extra.X": {"b"},
				"X-Remote-User": {"root"}, "X-Remote-Group": {"a"}, "Company-Name": {"kept"}},
			want: []string{"Company-Name"},
		},
		"connection names the gate's header":                  {headers: http.Header{"Connection": {"close, X-Remote-User"}}, wantFail: true},
		"connection names a renamed header":                   {names: renamed, headers: http.Header{"Connection": {"company-user"}}, wantFail: true},
		"connection takes off the client's own impersonation": {headers: http.Header{"Connection": {"Impersonate-User"}, "Impersonate-User": {"jane"}}, wantFail: true},
		"connection with a leading space and an underscore":   {headers: http.Header{"Connection": {"keep-alive", " impersonate_user "}}, wantFail: true},
		"connection with a tab and empty members":             {headers: http.Header{"Connection": {"close,,\tImpersonate-Extra-a%2fb\t,"}}, wantFail: true},
		"connection in mixed case":                            {headers: http.Header{"Connection": {"iMPERSONATE-gROUP"}}, wantFail: true},
		"connection takes off the token":                      {headers: http.Header{"Connection": {"authorization"}}, wantFail: true},
		"connection takes off a browser's token":              {headers: http.Header{"Connection": {"Upgrade, sec-websocket-protocol"}}, wantFail: true},
		"an upgrade is untouched":                             {headers: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}}, want: []string{"Connection", "Upgrade"}},
		"a browser's token and what looks like nothing stay":  {headers: http.Header{"Sec-Websocket-Protocol": {"v5.channel.k8s.io"}, "X-Remotely": {"a"}}, want: []string{"Sec-Websocket-Protocol", "X-Remotely"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.names.Usernames == nil {
				test.names = usual
			}
			r := &http.Request{Header: test.headers, Trailer: http.Header{"X-Remote-User": nil}}
			err := NewHeaders(v1alpha1.FrontProxy, test.names).Strip(r)
			if test.wantFail {
				if !errors.Is(err, ErrBadHeaders) {
					t.Fatalf("got error %v, want ErrBadHeaders", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, slices.Sorted(maps.Keys(r.Header))); diff != "" {
				t.Errorf("headers left (-want +got):\n%s", diff)
			}
			if len(r.Trailer) != 0 {
				t.Errorf("trailers are left: %v", r.Trailer)
			}
		})
	}
}

func TestSet(t *testing.T) {
	caller := flow.Caller{
		User: "jane", UID: "42", Groups: []string{"dev", authenticatedGroup}, Certainty: flow.CertificateVerified,
		Extra: map[string][]string{"authentication.kubernetes.io/credential-id": {"X509SHA256=ab"}},
	}
	tests := map[string]struct {
		mode  v1alpha1.IdentityMode
		names v1alpha1.RequestHeaders
		want  http.Header
	}{
		"front proxy": {v1alpha1.FrontProxy, v1alpha1.RequestHeaders{}, http.Header{
			"X-Remote-User": {"jane"}, "X-Remote-Uid": {"42"}, "X-Remote-Group": {"dev"},
			"X-Remote-Extra-Authentication.kubernetes.io%2fcredential-Id": {"X509SHA256=ab"},
		}},
		"front proxy, renamed": {v1alpha1.FrontProxy, v1alpha1.RequestHeaders{
			Usernames: []string{"company-user", "X-Remote-User"}, UIDs: []string{"Company-Uid"}, Groups: []string{"Company-Group", "X-Group"}, ExtraPrefixes: []string{"Company-Extra-"},
		}, http.Header{
			"Company-User": {"jane"}, "Company-Uid": {"42"}, "Company-Group": {"dev"},
			"Company-Extra-Authentication.kubernetes.io%2fcredential-Id": {"X509SHA256=ab"},
		}},
		"impersonation": {v1alpha1.Impersonation, v1alpha1.RequestHeaders{}, http.Header{
			"Impersonate-User": {"jane"}, "Impersonate-Uid": {"42"}, "Impersonate-Group": {"dev"},
			"Impersonate-Extra-Authentication.kubernetes.io%2fcredential-Id": {"X509SHA256=ab"},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/api", nil)
			r.Header.Set("Authorization", "Bearer left-over")
			NewHeaders(test.mode, test.names).Set(r, &caller)
			if diff := cmp.Diff(test.want, r.Header); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("a token speaks for itself", func(t *testing.T) {
		r := httptest.NewRequest(http.MethodGet, "/api", nil)
		r.Header.Set("Authorization", "Bearer mine")
		NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{}).Set(r, &flow.Caller{User: "sa", Certainty: flow.TokenVerified, Bearer: true})
		if diff := cmp.Diff(http.Header{"Authorization": {"Bearer mine"}}, r.Header); diff != "" {
			t.Errorf("headers (-want +got):\n%s", diff)
		}
	})
}

// apiServer reads requests as the API server does, with its own code; it takes every token for a name.
var apiServer = struct{ frontProxy, token authenticator.Request }{
	frontProxy: must(headerrequest.New([]string{"X-Remote-User"}, []string{"X-Remote-Uid"}, []string{"X-Remote-Group"}, []string{"X-Remote-Extra-"})),
	token:      bearertoken.New(authenticator.TokenFunc(tokenAsName)),
}

func must(a authenticator.Request, err error) authenticator.Request {
	if err != nil {
		panic(err)
	}
	return a
}

func tokenAsName(_ context.Context, token string) (*authenticator.Response, bool, error) {
	return &authenticator.Response{User: &user.DefaultInfo{Name: token}}, true, nil
}

// FuzzBearerToken holds the gate's reading of a token against the API server's own.
func FuzzBearerToken(f *testing.F) {
	f.Add("Bearer abc", "base64url.bearer.authorization.k8s.io.YWJj, v4.channel.k8s.io", "websocket", "Upgrade")
	f.Add("bearer  x y", "", "", "")
	f.Add("", "base64url.bearer.authorization.k8s.io.YWJj,x", "WebSocket", "keep-alive, Upgrade")
	f.Add("BEARER a b", "x,base64url.bearer.authorization.k8s.io.", "spdy/3.1", "upgrade")
	f.Fuzz(func(t *testing.T, authorization, protocols, upgrade, connection string) {
		r := httptest.NewRequest(http.MethodGet, "/api", nil)
		r.Header = http.Header{"Authorization": {authorization}, "Sec-Websocket-Protocol": {protocols}, "Upgrade": {upgrade}, "Connection": {connection}}
		token, found := bearerToken(r)
		if found && token == "" {
			t.Fatal("an empty token was found")
		}
		want, ok, err := apiServer.token.AuthenticateRequest(r.Clone(t.Context()))
		switch {
		case err != nil:
			t.Fatal(err)
		case ok && (!found || token != want.User.GetName()):
			t.Errorf("the API server reads %q, the gate %q, %v", want.User.GetName(), token, found)
		case !ok && found && !flow.IsUpgrade(r):
			t.Errorf("the API server reads no token, the gate %q", token)
		}
	})
}

// FuzzRequest gives the raw bytes of a request to the server's parser, strips it and has the API server's own
// authenticator look for an identity: there must be none but what the gate sets.
func FuzzRequest(f *testing.F) {
	for _, header := range []string{
		"X-Remote-User: root\r\nX-Remote-Group: system:masters", "x_remote_user: root", "Connection: Impersonate-User\r\nImpersonate-User: jane",
		"Connection: close,\tX-Remote-User \r\nX-Remote-User: root", "X-Remote-Extra-a%2fb: c\r\nX-Remote-Extra-A%2Fb: d", "A: b\r\n X-Remote-User: root",
		"Trailer: X-Remote-User\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Remote-User: root", "Impersonate-Extra-A_b: c", "X-Remote-User : root",
		"Proxy-Connection: X-Remote-User\r\nTE: trailers, X-Remote-User\r\nKeep-Alive: Authorization", "Authorization: Bearer a\r\nAuthorization: Bearer b",
	} {
		f.Add([]byte("GET /api/v1/pods HTTP/1.1\r\nHost: gate\r\n" + header + "\r\n\r\n"))
	}
	f.Add([]byte("POST http://other/apis?x=y HTTP/1.0\nX-Remote-User: root\n\n"))
	headers := NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		impersonation := r.Header["Impersonate-User"]
		if headers.Strip(r) != nil {
			return
		}
		if len(r.Trailer) != 0 {
			t.Errorf("trailers are left: %v", r.Trailer)
		}
		if diff := cmp.Diff(impersonation, r.Header["Impersonate-User"]); diff != "" {
			t.Errorf("the client asked for fewer rights and does not get fewer:\n%s", diff)
		}
		for _, caller := range []flow.Caller{{Certainty: flow.Unverified}, {Certainty: flow.CertificateVerified, User: "jane", Groups: []string{"dev"}}} {
			sent := forwarded(t, r, headers, &caller)
			if diff := cmp.Diff(impersonation, sent.Header["Impersonate-User"]); diff != "" {
				t.Errorf("impersonation got lost on the way:\n%s", diff)
			}
			response, ok, err := apiServer.frontProxy.AuthenticateRequest(sent)
			switch {
			case err != nil:
				t.Fatal(err)
			case caller.Certainty == flow.Unverified && ok:
				t.Errorf("a nobody is %v", response.User)
			case caller.Certainty == flow.CertificateVerified:
				want := &user.DefaultInfo{Name: "jane", Groups: []string{"dev"}, Extra: map[string][]string{}}
				if diff := cmp.Diff(user.Info(want), response.User); diff != "" {
					t.Errorf("the API server sees another identity (-want +got):\n%s", diff)
				}
				if sent.Header.Get("Authorization") != "" {
					t.Error("a second credential travels along")
				}
			}
		}
	})
}

// forwarded is the request as ReverseProxy sends it on, which removes what the Connection header names.
func forwarded(t *testing.T, r *http.Request, headers *Headers, caller *flow.Caller) *http.Request {
	var sent *http.Request
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { headers.Set(p.Out, caller) },
		Transport: roundTrip(func(out *http.Request) (*http.Response, error) {
			sent = out
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: out}, nil
		}),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {},
	}
	in := r.Clone(t.Context())
	in.Body, in.ContentLength = http.NoBody, 0
	proxy.ServeHTTP(httptest.NewRecorder(), in)
	if sent == nil { // an upgrade to what is no protocol's name
		return &http.Request{Header: http.Header{"Impersonate-User": r.Header["Impersonate-User"], "X-Remote-User": nil}}
	}
	return sent
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
