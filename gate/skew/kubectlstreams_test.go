package skew

import (
	"bytes"
	"context"
	"fmt"

	"net"
)

// Pods whose kubelet is this test's; see kubelet.
const streaming = `apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: $POD
  containers:
  - {name: web, image: registry.example/web, ports: [{name: http, containerPort: 80}], stdin: true}
  - {name: side, image: registry.example/side}
`

// streamScenes are about connections that are upgraded, by both protocols.
var streamScenes = []scene{
	streamScene("websocket", "true"),
	streamScene("spdy", "false"),
	{
		name:  "logs",
		files: map[string]string{"stream.yaml": streaming, "kwok.yaml": kwokPod},
		steps: []step{
			{run: "apply -f stream.yaml -f kwok.yaml"},
			{run: "wait pod --all --for=condition=Ready", settle: true},
			{run: "logs web -c side"},
			{run: "logs web"},
			{run: "logs web --follow"},
			{run: "logs web --follow --all-containers --prefix --max-log-requests=2", settle: true}, // two streams, woven
			{run: "logs -l app=web --all-containers --tail=1", settle: true},                        // in no order
			{run: "logs -l app=web -c side --tail=1"},
			{run: "logs web -c absent", code: 1},
			{run: "logs absent", code: 1},
			{run: "logs kwok --timestamps --since-time=2024-01-01T00:00:00Z"},
			{run: "logs kwok --limit-bytes=10"},
			{run: "logs kwok --previous"},
			{run: "logs kwok --since=1s"},
			{run: "logs kwok --follow", until: "simulated"},
			{run: "exec kwok -- true", code: 1},
		},
	},
}

// Its kubelet is KWOK.
const kwokPod = `apiVersion: v1
kind: Pod
metadata: {name: kwok, labels: {app: kwok}}
spec: {nodeName: $NODE, containers: [{name: kwok, image: registry.example/kwok}]}
`

// streamScene is exec, attach, port-forward and cp by one protocol. kubectl falls back from WebSocket to SPDY in silence;
// that each protocol works is therefore shown by TestStreams, and here that kubectl is content.
func streamScene(name, websockets string) scene {
	s := scene{
		name:  name,
		files: map[string]string{"stream.yaml": streaming, "copied.txt": "what is copied\n", "tree/a.txt": "a\n", "tree/deep/b.txt": "b\n"},
		steps: []step{
			{run: "apply -f stream.yaml"},
			{run: "wait pod/web --for=condition=Ready", settle: true},
			{run: "expose pod web --port=8080 --target-port=http"},
			{run: "exec web -c web -- echo hello world"},
			{run: "exec deploy/web -- echo hello", code: 1},
			{run: "exec service/web -c side -- echo hello"},
			{run: "exec web -- warn 7", code: 7},
			{run: "exec web -c side -- exit 255", code: 255},
			{run: "exec -i web -c web -- cat", stdin: "from the input\n"},
			{run: "exec -i web -c web -- sum", stdin: string(bytes.Repeat([]byte("0123456789abcdef"), 64<<10))},
			{run: "exec -it web -c web -- size"}, // the input is no terminal
			{run: "exec web -c web -- produce 300000"},
			{run: "exec web -c web -- tick 5"},
			{run: "exec web -c web -- no-such-program", code: 1},
			{run: "exec web -c absent -- echo", code: 1},
			{run: "exec absent -- echo", code: 1},
			{run: "exec -i web -c web -- hold $NS", stdin: "x", until: "holding"},
			{run: "exec web -c web --as=jane -- echo", code: 1},
			{run: "attach web -c web --pod-running-timeout=5s"},
			{run: "attach -i web -c web", stdin: "heard\n", until: "heard"},
			{run: "run attached --image=registry.example/a --restart=Never -i --overrides='{\"spec\":{\"nodeName\":\"$POD\"}}'", stdin: "heard\n", until: "heard"},
			{run: "cp copied.txt web:copied.txt -c web"},
			{run: "exec web -c web -- tar cf - absent", code: 2},
			{run: "cp web:copied.txt back.txt -c web"},
			{run: "cp tree $NS/web:tree -c web --retries=1"},
			{run: "cp $NS/web:tree tree-back -c web"},
			{run: "create configmap copied --from-file=back.txt --from-file=tree-back/a.txt --from-file=tree-back/deep/b.txt --dry-run=client -o yaml"},
			{run: "cp web:absent absent.txt -c web", code: 2},
			{run: "port-forward --address=127.0.0.1 pod/web :80 :81", until: "-> 81", act: throughForward},
			{run: "port-forward --address=127.0.0.1 service/web :8080", until: "-> 80", act: throughForward},
			{run: "port-forward --address=127.0.0.1 pod/web :7", until: "-> 7", act: throughForward, ends: true, settle: true},
			{run: "port-forward pod/absent :80", code: 1},
			{run: "port-forward pod/web :80 --as=jane", code: 1},
		},
	}
	for i := range s.steps {
		s.steps[i].env = []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + websockets, "KUBECTL_PORT_FORWARD_WEBSOCKETS=" + websockets}
	}
	return s
}

// throughForward sends bytes to each forwarded port, ends its sending, and reads to the end.
func throughForward(ctx context.Context, output string) (string, error) {
	var answers string
	for _, address := range loopbackAddress.FindAllString(output, -1) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return "", err
		}
		// An error shows in what came back; whether the machine's own connection then ends or breaks is the kernel's choice.
		text, _ := exchange(conn, bytes.Repeat([]byte("forwarded "), 20_000))
		conn.Close()
		answers += text + "\n"
	}
	return answers, nil
}

// exchange sends all and names what came back.
func exchange(conn net.Conn, data []byte) (string, error) {
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		sent <- err
	}()
	text, err := sum(conn)
	if failed := <-sent; err == nil {
		err = failed
	}
	if err != nil {
		return text, fmt.Errorf("exchanging bytes: %w", err)
	}
	return text, nil
}
