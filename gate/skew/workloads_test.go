package skew

// A pod that no controller and no scheduler touches: what is shown of it does not depend on when it is looked at.
const pinned = `apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: $POD
  containers:
  - {name: web, image: registry.example/web, ports: [{containerPort: 80}]}
  - {name: side, image: registry.example/side}
`

// workloadScenes are about what controllers work on. What a controller makes of it is waited for (settle) before it is
// shown, because no two runs take equally long.
var workloadScenes = []scene{
	{
		name:  "pods",
		files: map[string]string{"pod.yaml": pinned},
		steps: []step{
			{run: "apply -f pod.yaml"},
			{run: "wait pod/web --for=condition=Ready", settle: true},
			{run: "get pods -o wide"},
			{run: "get pod web -o yaml"},
			{run: "get pod web --subresource=status -o json"},
			{run: "describe pod web"},
			{run: "expose pod web --port=80 --target-port=8080"},
			{run: "expose pod web --port=80", code: 1},
			{run: "get service web -o wide"},
			{run: "wait endpointslice -l kubernetes.io/service-name=web --for=jsonpath='{.endpoints[0].conditions.ready}'=true", settle: true, eventually: true},
			// The API server's own repair loop may pass between the making of a service and the taking of its address, and says
			// so in an event.
			{run: "describe service web --show-events=false"},
			{run: "run simple --image=registry.example/simple --restart=Never --port=80 --labels=app=simple --env=A=b -o yaml --dry-run=server"},
			{run: "run simple --image=registry.example/simple --restart=Never"},
			{run: "run exposed --image=registry.example/exposed --port=80 --expose"},
			{run: "run simple --image=registry.example/simple", code: 1},
			{run: "wait pod --all --for=condition=Ready", settle: true},
			{run: "get pods -o name"},
			{run: "debug web --image=registry.example/debug -c debugger --profile=general --target=web"},
			{run: "debug web --image=registry.example/debug --copy-to=copy -c debugger --profile=sysadmin"},
			{run: "debug node/$NODE --image=registry.example/debug --profile=general"},
			{run: "debug absent --image=registry.example/debug --profile=general", code: 1},
			{run: "get pod web -o jsonpath={.spec.ephemeralContainers}"},
			{run: "patch pod web --subresource=resize -p '{\"spec\":{\"containers\":[{\"name\":\"web\",\"resources\":{\"limits\":{\"cpu\":\"1\"}}}]}}'", code: 1},
			{run: "delete pod simple --now"},
			{run: "delete pod exposed --grace-period=0 --force"},
			{run: "replace --force -f pod.yaml --grace-period=0"},
		},
	},
	{
		name: "warnings", // the API server's Warning headers, two in one answer among them
		files: map[string]string{
			"warn.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: bare}\nspec:\n  nodeName: $NODE\n  containers: [{name: a, image: registry.example/a, securityContext: {privileged: true}, env: [{name: A, value: b}, {name: A, value: c}]}]\n",
		},
		steps: []step{
			{run: "label namespace $NS pod-security.kubernetes.io/warn=restricted"},
			{run: "apply -f warn.yaml"},
			{run: "label namespace $NS pod-security.kubernetes.io/enforce=baseline"},
			{run: "run forbidden --image=registry.example/a --privileged", code: 1},
			{run: "apply -f warn.yaml --warnings-as-errors --dry-run=server"},
		},
	},
	{
		name: "rollouts",
		files: map[string]string{
			"daemon.yaml":   "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent}\nspec:\n  selector: {matchLabels: {app: agent}}\n  template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: agent, image: registry.example/agent:1}]}}\n",
			"stateful.yaml": "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  serviceName: db\n  selector: {matchLabels: {app: db}}\n  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: registry.example/db:1}]}}\n",
			"count.yaml":    "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: old}\nspec:\n  replicas: 0\n  selector: {app: old}\n  template: {metadata: {labels: {app: old}}, spec: {containers: [{name: old, image: registry.example/old:1}]}}\n",
		},
		steps: []step{
			{run: "create deployment web --image=registry.example/web:1 --port=80"},
			{run: "apply -f daemon.yaml -f stateful.yaml -f count.yaml"},
			{run: "rollout status deployment/web", settle: true},
			{run: "rollout status daemonset/agent", settle: true},
			{run: "rollout status statefulset/db", settle: true},
			{run: "rollout status deployment/web"},
			{run: "get deployment,replicaset,pod -l app=web"},
			{run: "get daemonset,statefulset,rc -o wide"},
			{run: "expose deployment web --name=exposed --type=NodePort"},
			{run: "expose rc old --port=80 --name=old --session-affinity=ClientIP -o yaml"},
			{run: "set image deployment/web web=registry.example/web:2"},
			{run: "rollout status deployment/web", settle: true},
			{run: "rollout history deployment/web"},
			{run: "rollout history deployment/web --revision=2"},
			{run: "rollout history deployment/web --revision=9", code: 1},
			{run: "rollout undo deployment/web"},
			{run: "rollout status deployment/web", settle: true},
			{run: "rollout undo deployment/web --to-revision=7", code: 1},
			{run: "rollout pause deployment/web"},
			{run: "rollout pause deployment/web", code: 1},
			{run: "rollout undo deployment/web", code: 1},
			{run: "rollout resume deployment/web"},
			{run: "rollout restart daemonset/agent"},
			{run: "rollout status daemonset/agent", settle: true},
			{run: "rollout history daemonset/agent"},
			{run: "rollout undo daemonset/agent --dry-run=server"},
			{run: "scale deployment/web --replicas=2"},
			{run: "scale deployment/web --replicas=3 --current-replicas=7", code: 1},
			{run: "scale rc/old statefulset/db --replicas=0"},
			{run: "scale deployment/absent --replicas=1", code: 1},
			{run: "rollout status deployment/web", settle: true},
			{run: "get deployment web"},
			{run: "get deployment web --subresource=scale -o yaml"},
			{run: "autoscale deployment web --min=1 --max=3 --cpu-percent=50"},
			{run: "autoscale deployment web --min=1 --max=3", code: 1},
			{run: "get hpa web -o jsonpath={.spec}"},
			{run: "delete hpa web"},
			{run: "wait pod -l app=db --for=delete", settle: true},
			{run: "describe statefulset db --show-events=false"},
			{run: "create job once --image=registry.example/once -- true"},
			{run: "wait job/once --for=condition=Complete", settle: true},
			{run: "get job once"},
			{run: "delete deployment web --cascade=orphan"},
			{run: "get replicaset -l app=web -o jsonpath={.items[*].metadata.ownerReferences}"},
		},
	},
	{
		name: "settings",
		steps: []step{
			{run: "create deployment web --image=registry.example/web:1 --replicas=0"},
			{run: "create serviceaccount robot"},
			{run: "create service clusterip web --tcp=80"},
			{run: "create rolebinding reader --clusterrole=view --user=jane"},
			{run: "set env deployment/web A=b C=d"},
			{run: "set env deployment/web C- --list"},
			{run: "set env deployment/web --list"},
			{run: "set image deployment/web web=registry.example/web:2 -o yaml --dry-run=server"},
			{run: "set image deployment/web absent=registry.example/web:2", code: 1},
			{run: "set resources deployment/web --limits=cpu=200m,memory=64Mi --requests=cpu=100m"},
			{run: "set selector service/web app=other"},
			{run: "set serviceaccount deployment/web robot"},
			{run: "set subject rolebinding/reader --user=joe --group=people --serviceaccount=$NS:robot"},
			{run: "get deployment/web service/web rolebinding/reader -o yaml", settle: true},
			{run: "get rolebinding reader -o wide"},
			{run: "get deployment web -o jsonpath={.spec.template.spec}"},
		},
	},
	{
		name: "events",
		files: map[string]string{
			"events.yaml": event("first", "Normal", "2024-12-11T15:12:00Z") + event("second", "Warning", "2024-12-11T15:13:00Z"),
		},
		steps: []step{
			{run: "create -f events.yaml"},
			{run: "events"},
			{run: "events --types=Warning -o json"},
			{run: "events --for pod/first --no-headers"},
			{run: "events -A --types=Warning --for pod/second -o name"},
			{run: "events --watch", until: "second"},
			{run: "get events --sort-by=.lastTimestamp"},
			{run: "get events -o wide --field-selector=reason=Skewed,type=Normal"},
			{run: "describe pods first", code: 1},
		},
	},
}

// event is an Event with fixed times, as controllers write them.
func event(name, kind, at string) string {
	return `---
apiVersion: v1
kind: Event
metadata: {name: ` + name + `, namespace: $NS}
involvedObject: {apiVersion: v1, kind: Pod, name: ` + name + `, namespace: $NS}
type: ` + kind + `
reason: Skewed
message: it is ` + name + `
count: 1
firstTimestamp: ` + at + `
lastTimestamp: ` + at + `
source: {component: skew}
`
}
