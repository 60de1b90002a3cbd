package skew

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// clusterScenes are about the cluster itself: who may do what, nodes, certificates, and what kinds there are.
var clusterScenes = []scene{
	{
		name: "server",
		steps: []step{
			{run: "version"},
			{run: "version -o json"},
			{run: "cluster-info"},
			{run: "cluster-info dump --namespaces=$NS"},
			{run: "api-versions"},
			{run: "api-resources"},
			{run: "api-resources -o wide --sort-by=name"},
			{run: "api-resources --api-group=apps --namespaced --verbs=list,get -o name"},
			{run: "api-resources --cached=false --categories=all --no-headers"},
			{run: "explain pods"},
			{run: "explain pods.spec.containers --recursive"},
			{run: "explain deployments --api-version=apps/v1 --output=plaintext-openapiv2"},
			{run: "explain pods.spec.nothing", code: 1},
			{run: "explain unheardof", code: 1},
			{run: "get --raw /readyz?verbose"},
			{run: "get --raw /livez/ping"},
			{run: "get --raw /version"},
			{run: "get --raw /openapi/v3"},
			{run: "get --raw /api"},
			{run: "get --raw /nothing", code: 1},
			{run: "top node", code: 1},
			{run: "top pod", code: 1},
			{run: "proxy --port=0", until: "Starting to serve", act: throughProxy},
			{run: "get nodes --kubeconfig=bare.kubeconfig --token=of-nobody", code: 1},
		},
	},
	{
		name: "auth",
		files: map[string]string{
			"rbac.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: made, namespace: $NS}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: made, namespace: $NS}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: made}\nsubjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: mary}]\n",
			"more.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: made, namespace: $NS}\nrules: [{apiGroups: [''], resources: [pods], verbs: [list]}]\n",
		},
		steps: []step{
			{run: "auth whoami"},
			{run: "auth whoami -o json"},
			{run: "auth whoami --kubeconfig=bare.kubeconfig --token=$TOKEN -o yaml"},
			{run: "auth whoami --as=mary --as-group=people --as-uid=7 -o yaml"},
			{run: "auth can-i create deployments"},
			{run: "auth can-i get pods --as=mary", code: 1},
			{run: "auth reconcile -f rbac.yaml --dry-run=client"},
			{run: "auth reconcile -f rbac.yaml"},
			{run: "auth reconcile -f more.yaml --remove-extra-permissions"},
			{run: "auth reconcile -f rbac.yaml -o yaml"},
			{run: "auth can-i get pods --as=mary", eventually: true},
			{run: "auth can-i get pods --subresource=log --as=mary -q", code: 1},
			{run: "auth can-i --list --as=mary"},
			{run: "auth can-i get /metrics --as=mary", code: 1},
			{run: "auth can-i bow configmaps"},
			{run: "get pod absent --as=mary --ignore-not-found"},
			{run: "get secrets --as=mary", code: 1},
		},
	},
	{
		name: "certs",
		files: map[string]string{
			"csr.yaml": "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: $NS}\nspec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], request: $CSR}\n---\napiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: $NS-no}\nspec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], request: $CSR}\n",
		},
		steps: []step{
			{run: "create -f csr.yaml"},
			{run: "get csr $NS $NS-no"},
			{run: "certificate approve $NS"},
			{run: "wait csr/$NS --for=jsonpath='{.status.certificate}'", settle: true},
			{run: "certificate approve $NS"},
			{run: "certificate deny $NS-no"},
			{run: "certificate approve $NS-no", code: 1},
			{run: "certificate deny absent", code: 1},
			{run: "get csr $NS $NS-no -o wide"},
			{run: "get csr $NS -o jsonpath={.status}"},
			{run: "delete csr $NS $NS-no"},
		},
	},
	{
		name: "nodes",
		files: map[string]string{
			"pinned.yaml": strings.ReplaceAll(pinned, "$POD", "$NODE"),
			"budget.yaml": "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec: {minAvailable: 1, selector: {matchLabels: {app: web}}}\n",
		},
		steps: []step{
			{run: "get nodes"},
			{run: "get node $NODE -o wide"},
			{run: "apply -f pinned.yaml"},
			{run: "wait pod/web --for=condition=Ready", settle: true},
			{run: "drain $NODE --dry-run=server --force --pod-selector=app=web"},
			{run: "apply -f budget.yaml"},
			{run: "wait pdb/web --for=jsonpath='{.status.currentHealthy}'=1", settle: true},
			{run: "cordon $NODE"},
			{run: "cordon $NODE"},
			{run: "get node $NODE"},
			{run: "drain $NODE --pod-selector=app=web", code: 1},
			// The eviction is answered 429 as long as the budget forbids it.
			{run: "drain $NODE --pod-selector=app=web --force --timeout=1s", code: 1},
			{run: "delete pdb web"},
			{run: "drain $NODE --pod-selector=app=web --force --disable-eviction --grace-period=0"},
			{run: "get pods"},
			{run: "uncordon $NODE"},
			{run: "drain absent", code: 1},
			{run: "taint node $NODE extra=yes:NoSchedule"},
			{run: "taint node $NODE extra=yes:NoSchedule", code: 1},
			{run: "taint node $NODE extra=no:PreferNoSchedule --overwrite"},
			{run: "taint node $NODE extra-"},
			{run: "label node $NODE skew=yes"},
			{run: "annotate node $NODE skew=yes"},
			{run: "describe node $NODE --show-events=false"},
			{run: "get --raw /api/v1/nodes/$NODE/proxy/healthz", code: 1}, // on loopback, where the API server sends nobody
		},
	},
}

// customResources makes a kind and uses it.
var customResources = scene{
	name: "kinds",
	files: map[string]string{
		"crd.yaml": `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.$NS.example.com}
spec:
  group: $NS.example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, categories: [$NS]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns: [{name: Size, type: string, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, description: What it is like., properties: {size: {type: string, enum: [small, large]}, replicas: {type: integer}}}
          status: {type: object, properties: {replicas: {type: integer}}}
`,
		"widget.yaml": "apiVersion: $NS.example.com/v1\nkind: Widget\nmetadata: {name: one}\nspec: {size: small, replicas: 1}\n",
		"wrong.yaml":  "apiVersion: $NS.example.com/v1\nkind: Widget\nmetadata: {name: two}\nspec: {size: huge}\n",
	},
	steps: []step{
		{run: "apply -f crd.yaml"},
		{run: "wait crd/widgets.$NS.example.com --for=condition=Established", settle: true},
		{run: "apply -f widget.yaml", eventually: true},
		{run: "apply -f widget.yaml --server-side"},
		{run: "apply -f wrong.yaml", code: 1},
		{run: "get $NS"},
		{run: "get widgets.v1.$NS.example.com one -o yaml"},
		{run: "scale widgets.$NS.example.com/one --replicas=3"},
		{run: "patch widgets.$NS.example.com one --subresource=status --type=merge -p '{\"status\":{\"replicas\":2}}'"},
		{run: "patch widgets.$NS.example.com one -p '{\"spec\":{\"size\":\"large\"}}'", code: 1},
		{run: "get widgets.$NS.example.com one --subresource=scale -o jsonpath={.spec}{.status}"},
		{run: "describe widgets.$NS.example.com one"},
		{run: "delete widgets.$NS.example.com --all"},
		{run: "delete -f crd.yaml"},
	},
}

var loopbackAddress = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// throughProxy asks through `kubectl proxy`.
func throughProxy(ctx context.Context, output string) (string, error) {
	// A connection of its own, as nobody closes the default client's.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var answers string
	for _, path := range []string{"/version", "/api/v1/namespaces/default", "/api/v1/namespaces/absent"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopbackAddress.FindString(output)+path, nil)
		if err != nil {
			return "", err
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return "", err
		}
		answers += fmt.Sprintf("%s %s\n%s", resp.Status, resp.Header.Get("Content-Type"), body)
	}
	return answers, nil
}
