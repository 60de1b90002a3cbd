package preflight

import authorizationv1 "k8s.io/api/authorization/v1"

// Right is something the kubeconfig's user may do.
type Right string

// The rights looked at, by SelfSubjectAccessReview.
const (
	ReadMetrics       Right = "get /metrics"
	ImpersonateUsers  Right = "impersonate users"
	ImpersonateGroups Right = "impersonate groups"
	ImpersonateUIDs   Right = "impersonate uids"
	BindRoles         Right = "create clusterrolebindings"
	DelegateTokens    Right = "create tokenreviews"
	DelegateAccess    Right = "create subjectaccessreviews"
	WatchSlices       Right = "watch endpointslices"
	WatchServices     Right = "watch services"
	PatchDaemonSets   Right = "patch daemonsets"
	DeletePods        Right = "delete pods"
	CreateFlowSchemas Right = "create flowschemas"
	CreateLevels      Right = "create prioritylevelconfigurations"
)

type asked struct {
	right                 Right
	verb, group, resource string
	path                  string
}

var rights = []asked{
	{right: ReadMetrics, verb: "get", path: "/metrics"},
	{right: ImpersonateUsers, verb: "impersonate", resource: "users"},
	{right: ImpersonateGroups, verb: "impersonate", resource: "groups"},
	{right: ImpersonateUIDs, verb: "impersonate", group: "authentication.k8s.io", resource: "uids"},
	{right: BindRoles, verb: "create", group: "rbac.authorization.k8s.io", resource: "clusterrolebindings"},
	{right: DelegateTokens, verb: "create", group: "authentication.k8s.io", resource: "tokenreviews"},
	{right: DelegateAccess, verb: "create", group: "authorization.k8s.io", resource: "subjectaccessreviews"},
	{right: WatchSlices, verb: "watch", group: "discovery.k8s.io", resource: "endpointslices"},
	{right: WatchServices, verb: "watch", resource: "services"},
	{right: PatchDaemonSets, verb: "patch", group: "apps", resource: "daemonsets"},
	{right: DeletePods, verb: "delete", resource: "pods"},
	{right: CreateFlowSchemas, verb: "create", group: "flowcontrol.apiserver.k8s.io", resource: "flowschemas"},
	{right: CreateLevels, verb: "create", group: "flowcontrol.apiserver.k8s.io", resource: "prioritylevelconfigurations"},
}

func (a asked) review() *authorizationv1.SelfSubjectAccessReview {
	review := &authorizationv1.SelfSubjectAccessReview{}
	if a.path != "" {
		review.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Verb: a.verb, Path: a.path}
	} else {
		review.Spec.ResourceAttributes = &authorizationv1.ResourceAttributes{Verb: a.verb, Group: a.group, Resource: a.resource}
	}
	return review
}
