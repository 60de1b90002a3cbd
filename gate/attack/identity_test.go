package attack

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

const secrets = "/api/v1/namespaces/kube-system/secrets"

// spellings are ways to write headers by which the API server, or what stands behind it, would take the sender for the
// admin.
var spellings = map[string][]string{
	"as the gate writes them":          {"X-Remote-User: " + lab.AdminUser, "X-Remote-Group: system:masters", "X-Remote-Uid: 0"},
	"lower case":                       {"x-remote-user: " + lab.AdminUser, "x-remote-group: system:masters"},
	"mixed case":                       {"x-ReMoTe-uSeR: " + lab.AdminUser, "X-REMOTE-GROUP: system:masters"},
	"underscores":                      {"X_Remote_User: " + lab.AdminUser, "X_REMOTE_GROUP: system:masters"},
	"mixed hyphens and underscores":    {"X-Remote_User: " + lab.AdminUser, "X_Remote-Group: system:masters"},
	"dots":                             {"X.Remote.User: " + lab.AdminUser},
	"duplicated":                       {"X-Remote-User: nobody", "X-Remote-User: " + lab.AdminUser, "X-Remote-Group: a", "X-Remote-Group: system:masters"},
	"folded over two lines":            {"Accept: application/json", " X-Remote-User: " + lab.AdminUser, "\tX-Remote-Group: system:masters"},
	"percent-encoded extra keys":       {"X-Remote-Extra-Authentication.kubernetes.io%2fcredential-Id: forged", "x-remote-extra-%53copes: all"},
	"a space before the colon":         {"X-Remote-User : " + lab.AdminUser},
	"a tab after the name":             {"X-Remote-User\t: " + lab.AdminUser},
	"in the value of another":          {"Accept: application/json\rX-Remote-User: " + lab.AdminUser},
	"after a bare line feed":           {"Accept: application/json\nX-Remote-User: " + lab.AdminUser},
	"Connection names it":              {"X-Remote-User: " + lab.AdminUser, "Connection: X-Remote-User"},
	"Connection names it, leading tab": {"X-Remote-User: " + lab.AdminUser, "Connection: close,\tx-remote-user"},
	"renamed by other proxies":         {"X-Forwarded-User: " + lab.AdminUser, "Remote-User: " + lab.AdminUser},
	"impersonation misspelled":         {"Impersonate_User: " + lab.AdminUser, "Impersonate.Group: system:masters"},
	"impersonation without the right":  {"Impersonate-User: " + lab.AdminUser, "Impersonate-Group: system:masters"},
	"impersonation of a uid alone":     {"Impersonate-Uid: 0", "Impersonate-Extra-Scopes: all"},
	"a token beside the certificate":   {"Authorization: Bearer forged"},
	"a user name as a token":           {"Authorization: Basic YWRtaW46YWRtaW4="},
	"trailers": {"Transfer-Encoding: chunked", "Trailer: X-Remote-User, Impersonate-User", "",
		"2\r\n{}\r\n0\r\nX-Remote-User: " + lab.AdminUser + "\r\nX-Remote-Group: system:masters\r\nImpersonate-User: " + lab.AdminUser},
}

// TestNobodyElse sends every spelling with a certificate that has no rights, and with none. The API server's own record
// says who came: mallory or nobody, with nothing added.
func TestNobodyElse(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	api := recordOf(t, n)
	plain := marker()
	speak(t, connect(t, n, "http/1.1", &mallory), line("GET", secrets, plain)+"Connection: close\r\n\r\n")
	seen := api.arrivals(t, plain)
	if len(seen) != 1 || seen[0].User.Username != "mallory" {
		t.Fatalf("a plain request arrived as %+v", seen)
	}
	honest := seen[0].User
	for name, headers := range spellings {
		t.Run(name, func(t *testing.T) {
			for who, as := range map[string]*lab.Identity{"mallory": &mallory, "system:anonymous": nil} {
				mark := marker()
				heard := speak(t, connect(t, n, "http/1.1", as), line("GET", secrets, mark)+strings.Join(headers, "\r\n")+"\r\n\r\n")
				if len(heard) != 1 || !slices.Contains([]int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden}, heard[0].StatusCode) {
					t.Errorf("%s got %v, want one refusal", who, codes(heard))
				}
				for _, a := range api.arrivals(t, mark) {
					wantImpersonation := strings.HasPrefix(headers[0], "Impersonate-User:")
					switch {
					case a.User.Username != who && a.User.Username != "":
						t.Errorf("%s arrived as %q", who, a.User.Username)
					case slices.Contains(a.User.Groups, "system:masters") || a.User.UID != "" && a.User.UID != honest.UID:
						t.Errorf("%s arrived with %+v", who, a.User)
					case who == "mallory" && len(a.User.Extra) != len(honest.Extra):
						t.Errorf("%s arrived with extras %v, honestly %v", who, a.User.Extra, honest.Extra)
					case a.ImpersonatedUser != nil && !wantImpersonation:
						t.Errorf("%s arrived to act as %q", who, a.ImpersonatedUser.Username)
					}
				}
			}
		})
	}
}

// TestConnectionHeaderTakesNothingAway is CVE-2021-31999: an admin who asks to act as jane, who has no rights, must
// never act as the admin because a hop-by-hop rule took the request away.
func TestConnectionHeaderTakesNothingAway(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	api := recordOf(t, n)
	admin := lab.Admin
	for name, headers := range map[string]string{
		"plain":                "Connection: Impersonate-User",
		"leading space":        "Connection:   Impersonate-User",
		"leading tab":          "Connection: \t Impersonate-User",
		"after a comma":        "Connection: keep-alive,Impersonate-User",
		"after a comma, tab":   "Connection: keep-alive,\tImpersonate-User",
		"empty members":        "Connection: ,,, Impersonate-User ,,",
		"mixed case":           "connection: iMPERSONATE-uSER",
		"underscore":           "Connection: Impersonate_User",
		"second line":          "Connection: keep-alive\r\nConnection: Impersonate-User",
		"second line, folded":  "Connection: keep-alive,\r\n Impersonate-User",
		"lower and upper line": "connection: close\r\nCONNECTION: Impersonate-User",
		"beside an upgrade":    "Connection: Upgrade, Impersonate-User\r\nUpgrade: websocket",
		"proxy-connection":     "Proxy-Connection: Impersonate-User",
		"keep-alive":           "Connection: Keep-Alive\r\nKeep-Alive: Impersonate-User",
		"te":                   "Connection: TE\r\nTE: trailers, Impersonate-User",
		"trailer":              "Connection: Trailer\r\nTrailer: Impersonate-User",
		"quoted":               `Connection: "Impersonate-User"`,
		"with a parameter":     "Connection: Impersonate-User;q=1",
	} {
		t.Run(name, func(t *testing.T) {
			mark := marker()
			heard := speak(t, connect(t, n, "http/1.1", &admin), line("GET", secrets, mark)+"Impersonate-User: jane\r\n"+headers+"\r\n\r\n")
			if len(heard) != 1 || heard[0].StatusCode != http.StatusBadRequest && heard[0].StatusCode != http.StatusForbidden {
				t.Errorf("got %v, want one refusal", codes(heard))
			}
			for _, a := range api.arrivals(t, mark) {
				if a.ImpersonatedUser == nil || a.ImpersonatedUser.Username != "jane" {
					t.Errorf("the request ran as %s: %+v", a.User.Username, a)
				}
			}
		})
	}
	t.Run("the token", func(t *testing.T) {
		mark := marker()
		heard := speak(t, connect(t, n, "http/1.1", nil), line("GET", "/version", mark)+"Authorization: Bearer x\r\nConnection: Authorization\r\n\r\n")
		if len(heard) != 1 || heard[0].StatusCode != http.StatusBadRequest {
			t.Errorf("got %v, want 400", codes(heard))
		}
	})
}

// TestRenamedHeaders runs an API server whose --requestheader-* flags have names of their own, which is why they are
// configuration: under the usual names alone, mallory's own Company-User would be believed.
func TestRenamedHeaders(t *testing.T) {
	l := lab.Start(t, lab.Options{ExtraArgs: map[string][]string{lab.KindAPIServer: {
		"--requestheader-username-headers=Company-User,X-Remote-User", "--requestheader-uid-headers=Company-Uid",
		"--requestheader-group-headers=Company-Group,X-Remote-Group", "--requestheader-extra-headers-prefix=Company-Extra-",
	}}})
	file := gatetest.Write(t, l, t.TempDir(), gatetest.Options{})
	edit(t, file, "identity:\n", `identity:
  requestHeaders: {usernames: [Company-User, X-Remote-User], uids: [Company-Uid], groups: [Company-Group, X-Remote-Group], extraPrefixes: [Company-Extra-]}
`)
	n := gatetest.Serve(t, l, file)
	api := recordOf(t, n)
	for name, headers := range map[string]string{
		"its name":       "Company-User: " + lab.AdminUser + "\r\nCompany-Group: system:masters",
		"misspelled":     "company_user: " + lab.AdminUser + "\r\nCOMPANY-GROUP: system:masters",
		"the usual name": "X-Remote-User: " + lab.AdminUser + "\r\nX-Remote-Group: system:masters",
		"its extras":     "Company-Extra-Scopes: all\r\nCompany-Uid: 0",
	} {
		t.Run(name, func(t *testing.T) {
			mark := marker()
			heard := speak(t, connect(t, n, "http/1.1", &mallory), line("GET", secrets, mark)+headers+"\r\n\r\n")
			if len(heard) != 1 || heard[0].StatusCode != http.StatusForbidden {
				t.Errorf("got %v, want 403", codes(heard))
			}
			seen := api.arrivals(t, mark)
			if len(seen) != 1 || seen[0].User.Username != "mallory" || slices.Contains(seen[0].User.Groups, "system:masters") ||
				seen[0].User.UID != "" || len(seen[0].User.Extra["scopes"]) > 0 {
				t.Errorf("mallory arrived as %+v", seen)
			}
		})
	}
	t.Run("an honest certificate arrives with all it has", func(t *testing.T) {
		team := lab.User("jane", "team-a", "team-b")
		mark := marker()
		speak(t, connect(t, n, "http/1.1", &team), line("GET", secrets, mark)+"\r\n")
		seen := api.arrivals(t, mark)
		if len(seen) != 1 || seen[0].User.Username != "jane" || !slices.Contains(seen[0].User.Groups, "team-b") || len(seen[0].User.Extra) == 0 {
			t.Errorf("jane arrived as %+v", seen)
		}
	})
}
