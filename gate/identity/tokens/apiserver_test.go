package tokens

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/lab"
)

// The API server is the judge: for tokens it issued itself, bound to a pod, to a node and to nothing, the identity found
// offline is the one its own TokenReview gives, extras included; what it refuses is refused here.
func TestAgreesWithTheAPIServer(t *testing.T) {
	// A lab of its own, so that it is gone when the leak check comes.
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), Nodes: 1, Pods: 1})
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	issue := func(namespace, account string, spec authenticationv1.TokenRequestSpec) string {
		t.Helper()
		request, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return request.Status.Token
	}
	review := func(token string) authenticationv1.TokenReviewStatus {
		t.Helper()
		answer, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status
	}

	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName!="})
	if err != nil || len(pods.Items) == 0 {
		t.Fatalf("listing pods on nodes: %d, %v", len(pods.Items), err)
	}
	pod := pods.Items[0]
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) == 0 {
		t.Fatalf("listing nodes: %v", err)
	}
	secret, err := client.CoreV1().Secrets("kube-system").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "legacy", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the controller fills the token's Secret", func() bool {
		secret, err = client.CoreV1().Secrets("kube-system").Get(ctx, "legacy", metav1.GetOptions{})
		return err == nil && len(secret.Data[corev1.ServiceAccountTokenKey]) > 0
	})

	free := issue("kube-system", "default", authenticationv1.TokenRequestSpec{})
	verifier, err := New(Options{
		ServiceAccounts: &v1alpha1.ServiceAccountKeys{Issuers: []string{lab.ServiceAccountIssuer}, KeyFiles: []string{l.PKI().ServiceAccountKey}},
		Log:             slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"bound to nothing": free,
		"bound to a pod": issue(pod.Namespace, pod.Spec.ServiceAccountName, authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		}),
		"bound to a node": issue("kube-system", "default", authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: nodes.Items[0].Name, UID: nodes.Items[0].UID},
		}),
		"kept in a Secret": string(secret.Data[corev1.ServiceAccountTokenKey]),
	} {
		t.Run(name, func(t *testing.T) {
			status := review(token)
			if !status.Authenticated {
				t.Fatalf("the API server refuses its own token: %s", status.Error)
			}
			want := Identity{User: status.User.Username, UID: status.User.UID, Groups: status.User.Groups}
			for key, values := range status.User.Extra {
				if want.Extra == nil {
					want.Extra = map[string][]string{}
				}
				want.Extra[key] = values
			}
			got, ok := verifier.Verify(token)
			if !ok {
				t.Fatal("not verified")
			}
			if name != "kept in a Secret" && got.Expires.Before(time.Now()) {
				t.Errorf("expires %s", got.Expires)
			}
			got.Expires = time.Time{}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("identity (-API server +offline):\n%s", diff)
			}
		})
	}
	for name, token := range map[string]string{
		"another audience": issue("kube-system", "default", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}),
		"signature spoilt": free[:len(free)-8] + "AAAAAAAA",
	} {
		t.Run(name, func(t *testing.T) {
			if review(token).Authenticated {
				t.Error("the API server takes it: the case is no case")
			}
			if id, ok := verifier.Verify(token); ok {
				t.Errorf("verified as %+v", id)
			}
		})
	}
}
