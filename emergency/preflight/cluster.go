package preflight

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/internal/pki"
)

// page bounds each list: facts need a look at some objects, never all of them.
const page = 100

func (g *gatherer) user(ctx context.Context) {
	review, err := g.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		g.facts.User = Unknown[string](why("who this user is", err))
		return
	}
	g.facts.User = Known(review.Status.UserInfo.Username)
}

func (g *gatherer) rights(ctx context.Context) {
	g.facts.Rights = map[Right]Fact[bool]{}
	for _, ask := range rights {
		review, err := g.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, ask.review(), metav1.CreateOptions{})
		if err != nil {
			g.facts.Rights[ask.right] = Unknown[bool](why("this user's rights", err))
			continue
		}
		g.facts.Rights[ask.right] = Known(review.Status.Allowed)
	}
	g.facts.MayGrantImpersonation = g.mayGrant(ctx)
}

// mayGrant tries to create the role that a gate in mode Impersonation needs, as a dry run: the API server refuses whoever
// gives away what he does not have, and says so before anything is stored.
func (g *gatherer) mayGrant(ctx context.Context) Fact[bool] {
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "seakeep-preflight-"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"users", "groups"}, Verbs: []string{"impersonate"}},
			{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"uids", "userextras/*"}, Verbs: []string{"impersonate"}},
		},
	}
	_, err := g.client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case err == nil:
		return Known(true)
	case apierrors.IsForbidden(err):
		return Known(false)
	}
	return Unknown[bool](why("a dry run of a ClusterRole", err))
}

func (g *gatherer) authentication(ctx context.Context) {
	const name = "extension-apiserver-authentication"
	config, err := g.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		var a Authentication
		if a, err = parseAuthentication(config.Data); err == nil {
			g.facts.Authentication = Known(a)
			g.facts.BreakGlassTrusted = g.trusted(a)
			return
		}
	}
	g.facts.Authentication = Unknown[Authentication](why("ConfigMap kube-system/"+name, err))
	g.facts.BreakGlassTrusted = Unknown[bool](g.facts.Authentication.Why())
}

func (g *gatherer) trusted(a Authentication) Fact[bool] {
	if g.opts.BreakGlassCA == nil {
		return Unknown[bool]("no break-glass CA was named")
	}
	want := describe(g.opts.BreakGlassCA).Fingerprint
	return Known(slices.ContainsFunc(a.ClientCAs, func(c Certificate) bool { return c.Fingerprint == want }))
}

// parseAuthentication reads what API servers publish for aggregated ones: certificates in PEM, lists in JSON.
func parseAuthentication(data map[string]string) (Authentication, error) {
	var a Authentication
	var errs []error
	certificates := func(key string) []Certificate {
		found := []Certificate{}
		if data[key] == "" {
			return found
		}
		certs, err := pki.ParseCerts([]byte(data[key]))
		if err != nil {
			errs = append(errs, err)
		}
		for _, c := range certs {
			found = append(found, describe(c))
		}
		return found
	}
	list := func(key string) []string {
		names := []string{}
		if data[key] == "" {
			return names
		}
		if err := json.Unmarshal([]byte(data[key]), &names); err != nil {
			errs = append(errs, err)
		}
		return names
	}
	a.ClientCAs, a.RequestHeaderCAs = certificates("client-ca-file"), certificates("requestheader-client-ca-file")
	a.AllowedNames, a.UsernameHeaders = list("requestheader-allowed-names"), list("requestheader-username-headers")
	a.UIDHeaders, a.GroupHeaders = list("requestheader-uid-headers"), list("requestheader-group-headers")
	a.ExtraPrefixes = list("requestheader-extra-headers-prefix")
	return a, errors.Join(errs...)
}

func describe(c *x509.Certificate) Certificate {
	sum := sha256.Sum256(c.Raw)
	name := c.Subject.CommonName
	if name == "" {
		name = c.Subject.String()
	}
	return Certificate{Subject: name, NotAfter: c.NotAfter, Fingerprint: hex.EncodeToString(sum[:])}
}

// cluster looks at the nodes, the API servers among the pods, and where clients were told to go.
func (g *gatherer) cluster(ctx context.Context) {
	evidence := Evidence{Server: g.facts.Server, ControlPlanePods: -1}
	evidence.Version, _ = g.facts.Version.Get()
	if groups, err := g.client.Discovery().ServerGroups(); err == nil {
		for _, group := range groups.Groups {
			evidence.Groups = append(evidence.Groups, group.Name)
		}
	}
	g.nodes(ctx, &evidence)
	g.pods(ctx, &evidence)
	g.facts.Provider = recognise(evidence)
	if _, known := g.facts.Provider.Get(); !known && g.opts.SelfManaged {
		g.facts.Provider = Known(Provider{Name: "self-managed", Evidence: "you say so"})
	}
	g.servers(ctx)
	g.clients(ctx)
}

func (g *gatherer) nodes(ctx context.Context, evidence *Evidence) {
	list, err := g.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: page})
	if err != nil {
		g.facts.Nodes = Unknown[Nodes](why("nodes", err))
		return
	}
	nodes := Nodes{Count: int64(len(list.Items)), Kubelets: []string{}, ProviderIDs: []string{}}
	if list.RemainingItemCount != nil {
		nodes.Count += *list.RemainingItemCount
	}
	scheme := map[string]bool{}
	for _, n := range list.Items {
		if v := n.Status.NodeInfo.KubeletVersion; v != "" && !slices.Contains(nodes.Kubelets, v) {
			nodes.Kubelets = append(nodes.Kubelets, v)
		}
		if id := n.Spec.ProviderID; id != "" && !scheme[id[:min(4, len(id))]] {
			scheme[id[:min(4, len(id))]] = true
			nodes.ProviderIDs = append(nodes.ProviderIDs, id)
		}
		for label := range n.Labels {
			if !slices.Contains(evidence.NodeLabels, label) {
				evidence.NodeLabels = append(evidence.NodeLabels, label)
			}
		}
	}
	slices.Sort(nodes.Kubelets)
	slices.Sort(evidence.NodeLabels)
	evidence.ProviderIDs = nodes.ProviderIDs
	control, err := g.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: page, LabelSelector: "node-role.kubernetes.io/control-plane"})
	if err != nil {
		g.facts.Nodes = Unknown[Nodes](why("nodes", err))
		return
	}
	nodes.ControlPlane = int64(len(control.Items))
	g.facts.Nodes = Known(nodes)
}

// pods finds the API servers that run as static pods, and their flags.
func (g *gatherer) pods(ctx context.Context, evidence *Evidence) {
	list, err := g.client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{Limit: page, LabelSelector: "component=kube-apiserver"})
	if err != nil {
		g.facts.Flags = Unknown[Flags](why("pods in kube-system", err))
		return
	}
	var commands [][]string
	for _, pod := range list.Items {
		if args := commandOf(&pod); args != nil {
			commands = append(commands, args)
		}
	}
	evidence.ControlPlanePods = len(commands)
	if len(commands) == 0 {
		g.facts.Flags = Unknown[Flags]("no API server runs as a pod in kube-system")
		return
	}
	g.facts.Flags = Known(mergeFlags(commands))
}

func commandOf(pod *corev1.Pod) []string {
	for _, c := range pod.Spec.Containers {
		if c.Name == "kube-apiserver" {
			return slices.Concat([]string{""}, c.Command, c.Args)
		}
	}
	return nil
}

// servers counts the API servers by the leases they hold, and finds where the kubernetes Service leads.
func (g *gatherer) servers(ctx context.Context) {
	leases, err := g.client.CoordinationV1().Leases(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{Limit: page, LabelSelector: "apiserver.kubernetes.io/identity=kube-apiserver"})
	if err != nil {
		g.facts.APIServers = Unknown[[]string](why("leases in kube-system", err))
	} else {
		alive := []string{}
		for _, l := range leases.Items {
			// A lease outlives its API server by an hour, until another collects it.
			if l.Spec.RenewTime != nil && g.opts.Now().Sub(l.Spec.RenewTime.Time) < maxLeaseAge {
				alive = append(alive, l.Name)
			}
		}
		g.facts.APIServers = Known(alive)
	}
	slicesOf, err := g.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{Limit: page, LabelSelector: "kubernetes.io/service-name=kubernetes"})
	if err != nil {
		g.facts.Endpoints = Unknown[[]string](why("endpointslices in default", err))
		return
	}
	endpoints := []string{}
	for _, slice := range slicesOf.Items {
		for _, port := range slice.Ports {
			if port.Port == nil {
				continue
			}
			for _, e := range slice.Endpoints {
				for _, address := range e.Addresses {
					endpoints = append(endpoints, net.JoinHostPort(address, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	slices.Sort(endpoints)
	g.facts.Endpoints = Known(slices.Compact(endpoints))
	g.facts.Balanced = balanced(g.facts.Server, endpoints)
}

// balanced says whether the address asked is no API server's own.
func balanced(server string, endpoints []string) Fact[bool] {
	u, err := url.Parse(server)
	if err != nil || len(endpoints) == 0 {
		return Unknown[bool]("the API servers do not announce their addresses")
	}
	return Known(!slices.ContainsFunc(endpoints, func(e string) bool {
		host, _, err := net.SplitHostPort(e)
		return err == nil && host == u.Hostname()
	}))
}

// clients finds the kubeconfigs that nodes are given, as far as they are in the cluster.
func (g *gatherer) clients(ctx context.Context) {
	for _, c := range []struct{ who, namespace, name, key string }{
		{"nodes that join, and their kubelets (kubeadm)", metav1.NamespacePublic, "cluster-info", "kubeconfig"},
		{"kube-proxy", metav1.NamespaceSystem, "kube-proxy", "kubeconfig.conf"},
		{"new control-plane nodes (kubeadm)", metav1.NamespaceSystem, "kubeadm-config", "ClusterConfiguration"},
	} {
		what := "ConfigMap " + c.namespace + "/" + c.name
		config, err := g.client.CoreV1().ConfigMaps(c.namespace).Get(ctx, c.name, metav1.GetOptions{})
		address := ClientAddress{Who: c.who}
		if err == nil {
			var server string
			if server, err = serverIn(config.Data[c.key]); err == nil {
				address.Server = Known(server)
			}
		}
		if err != nil {
			address.Server = Unknown[string](why(what, err))
		}
		g.facts.Clients = append(g.facts.Clients, address)
	}
}

var errNoServer = errors.New("it names no server")

// serverIn reads a kubeconfig or a kubeadm ClusterConfiguration.
func serverIn(text string) (string, error) {
	var kubeadm struct {
		Kind                 string `json:"kind"`
		ControlPlaneEndpoint string `json:"controlPlaneEndpoint"`
	}
	if err := yaml.Unmarshal([]byte(text), &kubeadm); err != nil {
		return "", err
	}
	if kubeadm.Kind == "ClusterConfiguration" {
		if kubeadm.ControlPlaneEndpoint == "" {
			return "", errNoServer
		}
		return kubeadm.ControlPlaneEndpoint, nil
	}
	config, err := clientcmd.Load([]byte(text))
	if err != nil {
		return "", err
	}
	for _, cluster := range config.Clusters {
		if cluster.Server != "" {
			return cluster.Server, nil
		}
	}
	return "", errNoServer
}
