package durability

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/keyutil"

	"github.com/seakeep/seakeep/gate/tracing/tracingtest"
	"github.com/seakeep/seakeep/lab"
)

// marker is in everything that must not be said and is not a key or a real token.
const marker = "hunter2hunter2"

// TestNothingSecretIsSaid makes a gate say all it can: debug level, every request in the access log, every request
// traced, errors of all kinds, every endpoint asked. No key, token, body or other secret of a request may be in it.
func TestNothingSecretIsSaid(t *testing.T) {
	receiver := tracingtest.New(t)
	r := newRig(t, "")
	defer receiver.Stop()
	r.reconfigure(func(text string) string {
		dead := fmt.Sprintf("upstreams: [{name: dead, url: \"https://127.0.0.1:1\", caFile: %s}, {name: lab", r.lab.CAFile())
		text = strings.Replace(text, "upstreams: [{name: lab", dead, 1)
		text = strings.Replace(text, "listen: {", fmt.Sprintf("listen: {metricsAddress: %q, ", r.metrics), 1)
		return text + fmt.Sprintf("accessLog: {file: \"-\", sampleRatio: 1, maxLinesPerSecond: 100000}\ntracing: {endpoint: %q, samplingRatePerMillion: 1000000}\n", receiver.URL) +
			"limits: [{name: no-events, match: {resources: [events]}, action: Deny}]\n"
	})
	secrets := r.keyMaterial()
	token := r.token()
	secrets["a token"] = []byte(token)
	secrets["a token's signature"] = []byte(token[strings.LastIndexByte(token, '.')+1:])
	secrets["a secret of a request"] = []byte(marker)
	secrets["a secret of a request, in base64"] = []byte(strings.TrimRight(base64.RawStdEncoding.EncodeToString([]byte(marker))[:16], "="))

	r.start()
	r.answers("at first", r.client("somebody"), http.StatusOK)
	r.sendSecrets(token)
	r.half()
	r.gone()
	said := map[string][]byte{}
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		said[path] = fetch(t, http.DefaultTransport.(*http.Transport).Clone(), "http://"+r.metrics+path)
	}
	socket := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, "admin.sock"))
	}}
	for _, path := range []string{
		"/v1/status", "/v1/rules", "/v1/top?n=1000", "/v1/totals", "/nothing", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap?debug=1", "/debug/pprof/heap",
		"/debug/pprof/allocs", "/debug/pprof/goroutine?debug=2", "/debug/pprof/threadcreate", "/debug/pprof/symbol", "/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=1",
	} {
		said[path] = fetch(t, socket, "http://gate"+path)
	}
	r.terminate()
	said["the log and the access log"] = []byte(r.said())
	said["the spans"] = receiver.Raw()
	for _, name := range []string{"admin-audit.jsonl", "emergency-rules"} {
		var err error
		if said[name], err = os.ReadFile(filepath.Join(r.state, name)); err != nil && name != "emergency-rules" {
			t.Error(err)
		}
	}
	for where, text := range said {
		for what, secret := range secrets {
			if i := bytes.Index(text, secret); i >= 0 {
				t.Errorf("%s is in %s: …%q…", what, where, text[max(0, i-80):min(len(text), i+80)])
			}
		}
	}
	// What is looked through is what it should be.
	for where, want := range map[string]string{
		"the log and the access log": `"query":"follow=true&token=…"`,
		"the spans":                  "seakeep-gate",
		"/metrics":                   "seakeep_gate_access_log_lines_total",
		"/v1/top?n=1000":             "somebody",
	} {
		if !strings.Contains(strings.ReplaceAll(string(said[where]), `\u0026`, "&"), want) {
			t.Errorf("%s is not in %s:\n%s", want, where, said[where])
		}
	}
	for _, want := range []string{"level=DEBUG", "API server cannot be reached", "Keeping the running configuration", `"rejectedBy":"limit:no-events"`} {
		if !strings.Contains(r.said(), want) {
			t.Errorf("the log does not contain %q", want)
		}
	}
}

func (r *rig) reconfigure(change func(string) string) {
	r.t.Helper()
	file := filepath.Join(r.dir, "gate.yaml")
	text, err := os.ReadFile(file)
	check(r.t, err)
	check(r.t, os.WriteFile(file, []byte(change(string(text))), 0o600))
}

// keyMaterial is every form in which a key could be written: lines of its PEM, its bytes, its number in hexadecimal.
func (r *rig) keyMaterial() map[string][]byte {
	r.t.Helper()
	found := map[string][]byte{}
	p := r.lab.PKI()
	for name, file := range map[string]string{"the front-proxy key": p.FrontProxyKey, "the serving key": p.ServingKey, "the signing key": p.ServiceAccountSigner} {
		data, err := os.ReadFile(file)
		check(r.t, err)
		block, _ := pem.Decode(data)
		lines := strings.Split(string(data), "\n")
		found[name+", a line of its PEM"] = []byte(lines[1][:32])
		found[name+", its end"] = []byte(lines[len(lines)-3][:24])
		found[name+", as bytes"] = block.Bytes[len(block.Bytes)-32:]
		key, err := keyutil.ParsePrivateKeyPEM(data)
		check(r.t, err)
		switch key := key.(type) {
		case *ecdsa.PrivateKey:
			number, err := key.Bytes()
			check(r.t, err)
			found[name+", in hexadecimal"] = []byte(hex.EncodeToString(number))
			found[name+", in decimal"] = []byte(fmt.Sprint(number[:8])[1:20])
		case *rsa.PrivateKey:
			found[name+", in hexadecimal"] = []byte(hex.EncodeToString(key.D.Bytes()))[:64]
			found[name+", in decimal"] = []byte(key.D.String())
		default:
			r.t.Fatalf("%s is a %T", file, key)
		}
	}
	return found
}

// token is a good one, of a service account.
func (r *rig) token() string {
	r.t.Helper()
	set, err := kubernetes.NewForConfigAndClient(r.lab.RESTConfig(lab.Admin), r.client(lab.AdminUser))
	check(r.t, err)
	request, err := set.CoreV1().ServiceAccounts("default").CreateToken(r.t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	check(r.t, err)
	return request.Status.Token
}

// sendSecrets sends secrets in every place of a request a client might.
func (r *rig) sendSecrets(token string) {
	r.t.Helper()
	admin, somebody := r.client(lab.AdminUser), r.client("somebody")
	nobody := &http.Client{Timeout: 20 * time.Second, Transport: admin.Transport.(*http.Transport).Clone()}
	without := nobody.Transport.(*http.Transport).TLSClientConfig
	without.Certificates, without.GetClientCertificate = nil, nil
	bad := token[:len(token)-20] + "hunter2hunter2AAAAAA"
	socketToken := "base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(bad))
	const proxied = "/api/v1/namespaces/default/services/a/proxy/" + marker + "?key=" + marker
	for name, q := range map[string]struct {
		client       *http.Client
		method, path string
		body         string
		headers      http.Header
	}{
		"a good token":       {nobody, "GET", "/api/v1/namespaces/default/pods", "", http.Header{"Authorization": {"Bearer " + token}}},
		"a bad token":        {nobody, "GET", "/api/v1/namespaces/default/pods", "", http.Header{"Authorization": {"Bearer " + bad}}},
		"no token at all":    {nobody, "GET", "/api/v1/namespaces/default/pods", "", http.Header{"Authorization": {"Bearer " + marker}}},
		"a password":         {nobody, "GET", "/api", "", http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("a:"+marker))}}},
		"two credentials":    {admin, "GET", "/api", "", http.Header{"Authorization": {"Bearer " + bad}}},
		"a cookie":           {admin, "GET", "/api", "", http.Header{"Cookie": {"session=" + marker}, "X-Custom": {marker}}},
		"in a WebSocket":     {nobody, "GET", "/api/v1/namespaces?watch=1", "", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {socketToken}}},
		"in a query":         {admin, "GET", "/api/v1/namespaces/default/pods/x/log?token=" + marker + "&follow=true", "", nil},
		"as a query":         {admin, "GET", "/api/v1/namespaces?" + marker, "", nil},
		"in a command":       {admin, "GET", "/api/v1/namespaces/default/pods/x/exec?command=mysql&command=-p" + marker, "", nil},
		"to a proxy":         {admin, "GET", proxied, "", nil},
		"to a proxy, nobody": {nobody, "GET", proxied, "", http.Header{"Connection": {"X-Remote-User"}}},
		"a Secret": {admin, "POST", "/api/v1/namespaces/default/secrets",
			`{"apiVersion":"v1","kind":"Secret","metadata":{"generateName":"a-"},"stringData":{"password":"` + marker + `"}}`, http.Header{"Content-Type": {"application/json"}}},
		"a body that is none": {admin, "POST", "/api/v1/namespaces/default/secrets", marker, http.Header{"Content-Type": {"application/json"}}},
		"impersonating":       {admin, "GET", "/api", "", http.Header{"Impersonate-User": {"jane"}, "Impersonate-Extra-Token": {marker}, "Impersonate-Uid": {marker}}},
		"impersonating, no":   {somebody, "GET", "/api", "", http.Header{"Impersonate-User": {marker}}},
		"claiming":            {somebody, "GET", "/api", "", http.Header{"X-Remote-User": {marker}, "X_Remote_Group": {marker}, "X-Remote-Extra-A": {marker}}},
		"refused":             {admin, "GET", "/api/v1/events?token=" + marker, "", http.Header{"Authorization": {"Bearer " + bad}}},
		"a trace's baggage":   {admin, "GET", "/api", "", http.Header{"Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, "Baggage": {"key=" + marker}}},
	} {
		request, err := http.NewRequestWithContext(r.t.Context(), q.method, r.url+q.path, strings.NewReader(q.body))
		check(r.t, err)
		for key, values := range q.headers {
			request.Header[key] = values
		}
		response, err := q.client.Do(request)
		if err != nil {
			r.t.Errorf("%s: %v", name, err)
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		check(r.t, response.Body.Close())
	}
	// What is no request at all, and what breaks off.
	for _, text := range []string{"GET / HTTP/1.1\r\nAuthorization: Bearer " + marker + "\r\n\r\n", marker} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "https://"))
		check(r.t, err)
		_, err = io.WriteString(conn, text)
		check(r.t, err)
		check(r.t, conn.Close())
	}
}

// half has the gate read files that are not what they should be: a message about a file must not quote it.
func (r *rig) half() {
	r.t.Helper()
	key := filepath.Join(r.dir, filepath.Base(r.lab.PKI().ServingKey))
	good, err := os.ReadFile(key)
	check(r.t, err)
	for _, content := range []string{marker, "-----BEGIN PRIVATE KEY-----\n" + base64.StdEncoding.EncodeToString([]byte(marker+marker)) + "\n-----END PRIVATE KEY-----\n"} {
		before := strings.Count(r.said(), "Keeping the running configuration")
		check(r.t, os.WriteFile(key, []byte(content), 0o600))
		eventually(r.t, "the bad key is refused", func() bool { return strings.Count(r.said(), "Keeping the running configuration") > before })
	}
	check(r.t, os.WriteFile(key, good, 0o600))
	eventually(r.t, "the good key is back", func() bool { return strings.Contains(r.said(), "Configuration in force") })
}

// gone is a request while no API server can be reached: what is said then names servers and their files.
func (r *rig) gone() {
	r.t.Helper()
	before := strings.Count(r.said(), "Configuration in force")
	r.reconfigure(func(text string) string {
		return strings.ReplaceAll(text, fmt.Sprintf("%q", r.lab.APIServerURL(0)), `"https://127.0.0.1:2"`)
	})
	eventually(r.t, "the other servers are used", func() bool { return strings.Count(r.said(), "Configuration in force") > before })
	r.answers("with every API server gone", r.client("somebody"), http.StatusServiceUnavailable)
}

func fetch(t *testing.T, transport *http.Transport, url string) []byte {
	t.Helper()
	transport.DisableKeepAlives = true
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	response, err := client.Get(url)
	check(t, err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	check(t, err)
	return data
}
