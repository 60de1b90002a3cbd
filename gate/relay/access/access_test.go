package access_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

const allPods = "/api/v1/pods"

// 300 agents of one ServiceAccount have 300 tokens and one right: the API server sees each token once and is asked about
// the right once.
func TestManyTokensAreOneSubject(t *testing.T) {
	r := open(t, cluster(t), v1alpha1.RelayReviews{})
	account := r.account()
	r.let("ServiceAccount", "default", account)
	const agents = 300
	tokens := make([]string, agents)
	for i := range tokens {
		tokens[i] = r.token(account)
	}
	since := r.auditLength()
	name := "system:serviceaccount:default:" + account
	round := func() {
		t.Helper()
		var group sync.WaitGroup
		for _, token := range tokens {
			for range 2 { // two requests at one time with the same token
				group.Go(func() {
					in, f := request(t, flow.Caller{User: name, Certainty: flow.TokenVerified}, token, allPods)
					who, err := r.Identify(t.Context(), in, f)
					if err != nil {
						t.Error(err)
						return
					}
					if got := in.Header.Get("Authorization"); got != "Bearer "+token {
						t.Error("the request lost its token, and could not be forwarded")
					}
					if who.GetName() != name || !slices.Contains(who.GetGroups(), user.AllAuthenticated) || who.GetUID() == "" || len(who.GetExtra()) != 0 {
						t.Errorf("identified as %+v", who)
					}
					if allowed, err := r.Allowed(t.Context(), who, f); err != nil || !allowed {
						t.Errorf("allowed %t, %v", allowed, err)
					}
				})
			}
		}
		group.Wait()
	}
	round()
	if gotTokens, gotAccesses := r.reviews(since); gotTokens != agents || gotAccesses != 1 {
		t.Errorf("%d token reviews and %d access reviews, want %d and 1", gotTokens, gotAccesses, agents)
	}
	round()
	if gotTokens, gotAccesses := r.reviews(since); gotTokens != agents || gotAccesses != 1 {
		t.Errorf("after a second round: %d token reviews and %d access reviews, want still %d and 1", gotTokens, gotAccesses, agents)
	}
	if diff := cmp.Diff([]string{name + " may list pods "}, r.recorded.all()); diff != "" {
		t.Errorf("recorded (-want +got):\n%s", diff)
	}
	status := r.Status()
	if status.TokenReviews != agents || status.AccessReviews != 1 || status.Errors != 0 || status.TokensKnown < 3*agents || status.AccessKnown < 2*agents {
		t.Errorf("status %+v", status)
	}
	families, err := r.registry.Gather()
	check(t, err)
	for _, family := range families {
		for _, token := range tokens {
			if strings.Contains(family.String(), token) {
				t.Fatal("a token is in the metrics")
			}
		}
	}
	if r.counted("token", "yes") != agents || r.counted("access", "yes") != 1 {
		t.Errorf("the metrics count %v and %v", r.counted("token", "yes"), r.counted("access", "yes"))
	}
}

// An authorizer that reads what stands in a single token can have it, at the price that is written beside the switch.
func TestPerTokenExtras(t *testing.T) {
	r := open(t, cluster(t), v1alpha1.RelayReviews{PerTokenExtras: v1alpha1.Enabled})
	account := r.account()
	r.let("ServiceAccount", "default", account)
	since := r.auditLength()
	for range 3 {
		in, f := request(t, flow.Caller{}, r.token(account), allPods)
		who, err := r.Identify(t.Context(), in, f)
		check(t, err)
		if len(who.GetExtra()[user.CredentialIDKey]) != 1 {
			t.Errorf("the extras are %v, want the credential's id", who.GetExtra())
		}
		if allowed, err := r.Allowed(t.Context(), who, f); err != nil || !allowed {
			t.Errorf("allowed %t, %v", allowed, err)
		}
	}
	if _, accesses := r.reviews(since); accesses != 3 {
		t.Errorf("%d access reviews for 3 tokens, want 3", accesses)
	}
	certified := certificate(lab.Admin)
	certified.Extra = map[string][]string{user.CredentialIDKey: {"X509SHA256=1"}}
	in, f := request(t, certified, "", allPods)
	who, err := r.Identify(t.Context(), in, f)
	check(t, err)
	if len(who.GetExtra()) != 1 {
		t.Errorf("a certificate's extras are %v", who.GetExtra())
	}
}

func TestWhoIsUnknown(t *testing.T) {
	r := open(t, cluster(t), v1alpha1.RelayReviews{})
	good := r.token(r.account())
	for name, tc := range map[string]struct {
		caller flow.Caller
		token  string
		header [2]string
	}{
		"anonymous":                          {},
		"no token behind the word":           {header: [2]string{"Authorization", "Bearer "}},
		"another scheme":                     {header: [2]string{"Authorization", "Basic " + good}},
		"an invented token":                  {token: "not-a-token"},
		"a token of a changed name":          {token: tampered(good)},
		"a token too long to be one":         {token: strings.Repeat("x", 20<<10)},
		"impersonating with a token":         {token: good, header: [2]string{"Impersonate-User", "jane"}},
		"impersonating, spelt otherwise":     {token: good, header: [2]string{"impersonate_user", "jane"}},
		"impersonating with a certificate":   {caller: certificate(lab.Admin), header: [2]string{"Impersonate-Group", "system:masters"}},
		"a name nobody verified":             {caller: flow.Caller{User: "admin@example.com"}},
		"believed offline, not by the rules": {caller: flow.Caller{User: "admin@example.com", Certainty: flow.TokenVerified}, token: "not-a-token"},
	} {
		t.Run(name, func(t *testing.T) {
			in, f := request(t, tc.caller, tc.token, allPods)
			if tc.header[0] != "" {
				in.Header[tc.header[0]] = []string{tc.header[1]}
			}
			who, err := r.Identify(t.Context(), in, f)
			if !errors.Is(err, access.ErrUnknown) || who != nil {
				t.Errorf("identified as %v, %v; want ErrUnknown", who, err)
			}
			if err != nil && tc.token != "" && strings.Contains(err.Error(), tc.token) {
				t.Error("the error has the token in it")
			}
		})
	}
	// The API server is not shown the same bad token with every request of whoever has it.
	since := r.auditLength()
	for range 20 {
		in, f := request(t, flow.Caller{}, "bad-"+tampered(good), allPods)
		if _, err := r.Identify(t.Context(), in, f); !errors.Is(err, access.ErrUnknown) {
			t.Fatal(err)
		}
	}
	if tokens, _ := r.reviews(since); tokens != 1 {
		t.Errorf("a bad token was reviewed %d times, want once", tokens)
	}
	if log := r.log.String(); strings.Contains(log, good) || strings.Contains(log, "not-a-token") {
		t.Error("a token is in the log")
	}
}

// tampered changes the middle of a token, where a JWT has its claims.
func tampered(token string) string {
	b := []byte(token)
	if at := len(b) / 2; b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return string(b)
}

func TestDeletedAccountIsRefused(t *testing.T) {
	r := open(t, cluster(t), v1alpha1.RelayReviews{TokenTTL: ttl(time.Second)})
	account := r.account()
	token := r.token(account)
	identify := func() error {
		in, f := request(t, flow.Caller{User: "system:serviceaccount:default:" + account, Certainty: flow.TokenVerified}, token, allPods)
		_, err := r.Identify(t.Context(), in, f)
		return err
	}
	check(t, identify())
	check(t, r.admin.CoreV1().ServiceAccounts("default").Delete(t.Context(), account, metav1.DeleteOptions{}))
	deleted := time.Now()
	var took time.Duration
	testkit.Within(t, "the token of a deleted account is refused", 15*time.Second, func() bool {
		took = time.Since(deleted)
		return errors.Is(identify(), access.ErrUnknown)
	})
	t.Logf("refused %s after the account was deleted", took.Round(time.Millisecond))
}

func TestRightsCountWithinTheirTime(t *testing.T) {
	r := open(t, cluster(t), v1alpha1.RelayReviews{AuthorizationTTL: ttl(time.Second)})
	jane := lab.User("jane-" + marker())
	may := func() bool {
		allowed, err := r.may(certificate(jane), allPods)
		check(t, err)
		return allowed
	}
	if may() {
		t.Fatal("someone without rights may list pods")
	}
	revoke := r.let("User", "", jane.String())
	testkit.Within(t, "what was granted is", 10*time.Second, may)
	for target, want := range map[string]bool{
		"/api/v1/pods?watch=1": true, "/api/v1/namespaces/default/pods": true, "/api/v1/secrets": false,
		"/api/v1/namespaces/default/pods/x": false, "/apis/apps/v1/deployments": false,
	} {
		if allowed, err := r.may(certificate(jane), target); err != nil || allowed != want {
			t.Errorf("%s: allowed %t, %v; want %t", target, allowed, err, want)
		}
	}
	revoke()
	revoked := time.Now()
	testkit.Within(t, "what was revoked is", 10*time.Second, func() bool { return !may() })
	t.Logf("revoked for good %s after it was", time.Since(revoked).Round(time.Millisecond))
	if heard := r.recorded.all(); !slices.Contains(heard, jane.String()+" may list pods ") || heard[len(heard)-1] != jane.String()+" may not list pods " {
		t.Errorf("recorded: %q", heard)
	}
}

// A node may list its own pods and no others (KEP-4601): a verdict without the selector would be wrong both ways.
func TestSelectorsMatter(t *testing.T) {
	r := open(t, cluster(t), v1alpha1.RelayReviews{})
	mine, other := lab.NodeName(0), lab.NodeName(1)
	node := certificate(lab.Node(mine))
	for target, want := range map[string]bool{
		allPods: false,
		allPods + "?fieldSelector=spec.nodeName%3D" + mine:                                true,
		allPods + "?watch=true&fieldSelector=spec.nodeName%3D" + mine:                     true,
		allPods + "?fieldSelector=spec.nodeName%3D" + mine + "%2Cstatus.phase%3DRunning":  true,
		allPods + "?fieldSelector=spec.nodeName%3D" + other:                               false,
		allPods + "?fieldSelector=spec.nodeName%21%3D" + mine:                             false,
		allPods + "?labelSelector=app%3Dx&fieldSelector=spec.nodeName%3D" + mine:          true,
		"/api/v1/nodes?fieldSelector=metadata.name%3D" + mine:                             true,
		"/api/v1/nodes?watch=1&fieldSelector=metadata.name%3D" + other:                    false,
		"/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dnot-of-my-pods": false,
	} {
		for range 2 { // asked, and remembered
			if allowed, err := r.may(node, target); err != nil || allowed != want {
				t.Errorf("%s: allowed %t, %v; want %t", target, allowed, err, want)
			}
		}
	}
	for _, target := range []string{
		allPods + "?labelSelector=a%20b%20c", allPods + "?fieldSelector=nonsense", // the API server's to refuse
		allPods + "?labelSelector=" + strings.Repeat("a", 9<<10), "/version",
	} {
		if allowed, err := r.may(node, target); err == nil || allowed {
			t.Errorf("%.60s: allowed %t, %v; want an error", target, allowed, err)
		}
	}
}

// What one client asks for and the API server does not understand must not stop the reviews of the others.
func TestOneClientsNonsenseHarmsNobody(t *testing.T) {
	r := open(t, cluster(t), v1alpha1.RelayReviews{})
	nonsense := certificate(lab.Admin)
	nonsense.Extra = map[string][]string{"Not a Key/": {"x"}}
	for range 5 {
		_, _ = r.may(nonsense, allPods)
		if allowed, err := r.may(certificate(lab.User("admin@example.com", "g"+marker())), allPods); err != nil || !allowed {
			t.Fatalf("allowed %t, %v", allowed, err)
		}
	}
	if r.counted("access", "spared") != 0 {
		t.Errorf("%v reviews were spared", r.counted("access", "spared"))
	}
}
