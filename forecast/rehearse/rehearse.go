package rehearse

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/seakeep/seakeep/forecast/observe"
)

const (
	// podPrefix begins the names of the pods the programs are.
	podPrefix = "rehearsal-"
	// tokenLife is longer than any rehearsal.
	tokenLife = 24 * time.Hour
)

// Options say what is rehearsed, and against what.
type Options struct {
	// Client may do everything in the lab.
	Client kubernetes.Interface
	// Server is the lab's URL, CA its authority in PEM.
	Server string
	CA     []byte
	// Dir holds kubeconfigs and logs, one of each a node.
	Dir string
	// Exec is the program; Args its arguments, in which $(NODE_NAME), $(KUBECONFIG), $(POD_NAME) and $(POD_NAMESPACE) are
	// replaced as the kubelet does; Env is added to PATH, HOME and these four.
	Exec string
	Args []string
	Env  []string
	// Path is $PATH.
	Path string
	// ServiceAccount is whose identity it has, namespace/name; made when it is not there.
	ServiceAccount string
	// ClusterRole is bound to it; empty: what it may do is there already.
	ClusterRole string
}

// Rehearsal is under way. It is used by one goroutine.
type Rehearsal struct {
	options         Options
	namespace, name string
	nodes           []string
	programs        *programs
	// Cluster is what samples are said to be of.
	Cluster string
	// Objects is how many objects of what it reads there are.
	Objects int
	running int
}

// New prepares a rehearsal: nothing runs yet. End takes the programs and their pods back; the namespace, the account and its binding stay.
func New(ctx context.Context, o Options) (*Rehearsal, error) {
	namespace, name, ok := strings.Cut(o.ServiceAccount, "/")
	switch {
	case !ok || namespace == "" || name == "":
		return nil, fmt.Errorf("preparing a rehearsal: the service account must be namespace/name, got %q", o.ServiceAccount)
	case o.Dir == "":
		return nil, errors.New("preparing a rehearsal: it needs a folder")
	}
	info, err := os.Stat(o.Exec)
	if err != nil {
		return nil, fmt.Errorf("preparing a rehearsal: %w", err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("preparing a rehearsal: %s is no program that can be run", o.Exec)
	}
	if o.Exec, err = filepath.Abs(o.Exec); err != nil {
		return nil, fmt.Errorf("preparing a rehearsal: %w", err)
	}
	r := &Rehearsal{options: o, namespace: namespace, name: name, Cluster: "rehearsal"}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("preparing a rehearsal: %w", err)
	}
	nodes, err := o.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("preparing a rehearsal: %w", err)
	}
	for _, n := range nodes.Items {
		r.nodes = append(r.nodes, n.Name)
	}
	slices.Sort(r.nodes)
	r.programs = newPrograms()
	if err := r.prepare(ctx); err != nil {
		r.programs.end()
		return nil, err
	}
	return r, nil
}

// Nodes is how many nodes the lab has.
func (r *Rehearsal) Nodes() int { return len(r.nodes) }

func (r *Rehearsal) prepare(ctx context.Context) error {
	o := r.options
	_, err := o.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.namespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making the namespace %s: %w", r.namespace, err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: r.name, Namespace: r.namespace}}
	if _, err = o.Client.CoreV1().ServiceAccounts(r.namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making the service account %s: %w", o.ServiceAccount, err)
	}
	if o.ClusterRole == "" {
		return nil
	}
	_, err = o.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: podPrefix + r.namespace + "-" + r.name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: o.ClusterRole},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: r.namespace, Name: r.name}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("binding the cluster role %s: %w", o.ClusterRole, err)
	}
	return nil
}

// Grow runs the program on so many nodes. It never takes one away.
func (r *Rehearsal) Grow(ctx context.Context, nodes int) error {
	if nodes > len(r.nodes) {
		return fmt.Errorf("rehearsing on %d nodes: the lab has %d", nodes, len(r.nodes))
	}
	for ; r.running < nodes; r.running++ {
		if err := r.begin(ctx, r.nodes[r.running]); err != nil {
			return fmt.Errorf("rehearsing on %s: %w", r.nodes[r.running], err)
		}
	}
	return nil
}

// begin makes the pod that the program is on a node, gets its token, and runs it.
func (r *Rehearsal) begin(ctx context.Context, node string) error {
	pods := r.options.Client.CoreV1().Pods(r.namespace)
	name := podPrefix + r.name + "-" + node
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"seakeep.dev/rehearsal": r.name}},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: r.name, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{Name: "agent", Image: "registry.example.com/rehearsal:1"}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		pod, err = pods.Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return fmt.Errorf("making its pod: %w", err)
	}
	token, err := r.options.Client.CoreV1().ServiceAccounts(r.namespace).CreateToken(ctx, r.name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: new(int64(tokenLife.Seconds())),
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: pod.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("getting its token: %w", err)
	}
	kubeconfig := filepath.Join(r.options.Dir, node+".kubeconfig")
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{Server: r.options.Server, CertificateAuthorityData: r.options.CA}
	config.AuthInfos["agent"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "agent", Namespace: r.namespace}
	config.CurrentContext = "lab"
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		return fmt.Errorf("writing its kubeconfig: %w", err)
	}
	vars := map[string]string{"KUBECONFIG": kubeconfig, "NODE_NAME": node, "POD_NAME": name, "POD_NAMESPACE": r.namespace}
	if u, err := url.Parse(r.options.Server); err == nil {
		vars["KUBERNETES_SERVICE_HOST"], vars["KUBERNETES_SERVICE_PORT"] = u.Hostname(), u.Port()
	}
	args := slices.Clone(r.options.Args)
	for i := range args {
		for key, value := range vars {
			args[i] = strings.ReplaceAll(args[i], "$("+key+")", value)
		}
	}
	cmd := exec.Command(r.options.Exec, args...)
	cmd.Dir = r.options.Dir
	cmd.Env = []string{"PATH=" + r.options.Path, "HOME=" + r.options.Dir}
	for key, value := range vars {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	cmd.Env = append(cmd.Env, r.options.Env...)
	return r.programs.run(node, cmd, filepath.Join(r.options.Dir, node+".log"))
}

// Exposure implements observe.Place: a rehearsal in which a program has ended says nothing of so many nodes.
func (r *Rehearsal) Exposure(context.Context) (observe.Exposure, error) {
	running, err := r.programs.running()
	if err != nil {
		return observe.Exposure{}, err
	}
	return observe.Exposure{Cluster: r.Cluster, Nodes: len(r.nodes), Exposed: running, Objects: r.Objects}, nil
}

// End ends every program and deletes its pod. Kubeconfigs and logs stay in the folder; their tokens end with the pods.
func (r *Rehearsal) End(ctx context.Context) error {
	r.programs.end()
	var errs []error
	for _, node := range r.nodes[:r.running] {
		err := r.options.Client.CoreV1().Pods(r.namespace).Delete(ctx, podPrefix+r.name+"-"+node, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("deleting the pod on %s: %w", node, err))
		}
	}
	return errors.Join(errs...)
}

// Steps are 1, 3, 9 and so on, and the last.
func Steps(last int) []int {
	var steps []int
	for n := 1; n < last; n *= 3 {
		steps = append(steps, n)
	}
	return append(steps, last)
}
