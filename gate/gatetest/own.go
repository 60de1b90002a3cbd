package gatetest

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream"
	"github.com/seakeep/seakeep/lab"
)

// RelayUser is who the relay is by default, and in deploy/relay/rbac.yaml.
const RelayUser = "seakeep:relay"

// Own is a gate's own way to all of the lab's API servers, as the user, without a gate around it. Its connections are
// closed when the test ends.
func Own(t testing.TB, l *lab.Lab, user string) http.RoundTripper {
	t.Helper()
	return Proxy(t, l).Own(user)
}

// Proxy is a gate's way to all of the lab's API servers, without a gate around it.
func Proxy(t testing.TB, l *lab.Lab) *upstream.Proxy {
	t.Helper()
	p := l.PKI()
	var servers []*upstream.Server
	for i := range l.APIServers() {
		server, err := upstream.New(upstream.Options{
			Name: "lab-" + strconv.Itoa(i), URL: l.APIServerURL(i), CAFile: p.ClusterCA,
			ProxyCertFile: p.FrontProxyCert, ProxyKeyFile: p.FrontProxyKey,
		})
		check(t, err)
		t.Cleanup(func() { closeAll(server) })
		servers = append(servers, server)
	}
	headers := identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{})
	return upstream.NewProxy(upstream.Fixed(servers...), headers, time.Minute, upstream.NewBodies(nil), slog.New(slog.DiscardHandler))
}

// closeAll closes connections, those too that were still being made for a request that was given up.
func closeAll(server *upstream.Server) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 15 {
		server.Close()
		<-tick.C
	}
}

// GrantRelay gives RelayUser, in the lab, the rights that deploy/relay/rbac.yaml gives it, and takes away those the lab
// gives it besides. It is repeatable.
func GrantRelay(t testing.TB, l *lab.Lab) {
	t.Helper()
	client := Clientset(t, l.RESTConfig(lab.Masters))
	err := client.RbacV1().ClusterRoleBindings().Delete(t.Context(), "seakeep-lab:"+RelayUser, metav1.DeleteOptions{})
	if !apierrors.IsNotFound(err) {
		check(t, err)
	}
	file, err := os.Open(filepath.Join(root(t), "deploy", "relay", "rbac.yaml"))
	check(t, err)
	defer file.Close()
	documents := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for range 4 {
		var object struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
			Rules             []rbacv1.PolicyRule `json:"rules"`
			RoleRef           rbacv1.RoleRef      `json:"roleRef"`
			Subjects          []rbacv1.Subject    `json:"subjects"`
		}
		check(t, documents.Decode(&object))
		switch object.Kind {
		case "ClusterRole":
			_, err = client.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: object.ObjectMeta, Rules: object.Rules}, metav1.CreateOptions{})
		case "ClusterRoleBinding":
			_, err = client.RbacV1().ClusterRoleBindings().Create(t.Context(),
				&rbacv1.ClusterRoleBinding{ObjectMeta: object.ObjectMeta, RoleRef: object.RoleRef, Subjects: object.Subjects}, metav1.CreateOptions{})
		default:
			t.Fatalf("deploy/relay/rbac.yaml has a %s", object.Kind)
		}
		if !apierrors.IsAlreadyExists(err) {
			check(t, err)
		}
	}
}

// root is the folder of the module: tests run in their package's. What a program was built from is not known to it (-trimpath).
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	check(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working folder")
		}
		dir = filepath.Dir(dir)
	}
}
