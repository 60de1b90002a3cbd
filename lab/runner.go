package lab

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/seakeep/seakeep/lab/agents"
)

// AgentsOptions are what the agent runner needs to run in a process of its own.
type AgentsOptions struct {
	Kubeconfig string // identity of the runner, and server and authority of the agents
	Listen     string // loopback address of /metrics and /healthz
	Limit      int    // most agents at a time
	Seed       int64
	Log        *slog.Logger
}

// RunAgents runs the agents until the context ends.
func RunAgents(ctx context.Context, o AgentsOptions) error {
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading agents' kubeconfig: %w", err)
	}
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.UserAgent = "seakeep-lab-agents"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making agents' client: %w", err)
	}
	if err := rest.LoadTLSFiles(config); err != nil {
		return fmt.Errorf("reading agents' certificates: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(config.CAData) {
		return errors.New("agents' kubeconfig has no certificate authority")
	}
	registry := prometheus.NewRegistry()
	metrics := agents.NewMetrics(registry)

	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("listening for agents' metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	machines := agents.NewMachines()
	mux.HandleFunc("PUT /machines", func(w http.ResponseWriter, r *http.Request) {
		percent, err := strconv.Atoi(r.FormValue("percent"))
		if err != nil || percent < 0 || percent > 100 {
			http.Error(w, "percent must be 0–100", http.StatusBadRequest)
			return
		}
		machines.Set(percent)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	defer func() {
		_ = server.Close()
		<-served
	}()
	return agents.Run(ctx, agents.Config{
		Client: client, Server: config.Host, Roots: roots, Limit: o.Limit, Seed: o.Seed, Log: o.Log, Metrics: metrics, Machines: machines,
	})
}

// StartAgents starts the agent runner: from now on, each Running pod of a DaemonSet whose template has an agent's
// annotations (see package agents) puts that agent's load on the front door. The runner is a process of its own, with
// niceness 10 so that the load does not take the CPU of what it is put on, if there is an executable for it:
// Options.Self, or this one if it is seakeep. Else, as in tests, it runs in this process.
func (l *Lab) StartAgents(ctx context.Context) error {
	port, err := l.ports.next()
	if err != nil {
		return err
	}
	kubeconfig, err := l.componentKubeconfig(KindAgents, agentRunner)
	if err != nil {
		return err
	}
	listen := loopback(port)
	ready := func(ctx context.Context) error { return getOK(ctx, http.DefaultClient, "http://"+listen+"/healthz") }
	self := l.options.Self
	if executable, err := os.Executable(); self == "" && err == nil && filepath.Base(executable) == "seakeep" {
		self = executable
	}
	if self != "" {
		_, err = l.Run(ctx, ProcessSpec{
			Name: KindAgents, Path: self, Nice: 10, Restart: true, Ready: ready, Bounds: l.options.Bounds[KindAgents],
			Args: []string{
				"lab", "agents", "--kubeconfig=" + kubeconfig, "--listen=" + listen,
				"--limit=" + strconv.Itoa(l.options.AgentLimit), "--seed=" + strconv.FormatInt(l.options.Seed, 10),
			},
		})
	} else {
		err = l.agentsInProcess(ctx, AgentsOptions{
			Kubeconfig: kubeconfig, Listen: listen, Limit: l.options.AgentLimit, Seed: l.options.Seed, Log: l.options.Log,
		}, ready)
	}
	if err != nil {
		return fmt.Errorf("starting agents: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.agentsURL = "http://" + listen + "/metrics"
	return nil
}

// agentsInProcess runs the agents in this process until Down.
func (l *Lab) agentsInProcess(ctx context.Context, o AgentsOptions, ready func(context.Context) error) error {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- RunAgents(running, o) }()
	l.mu.Lock()
	l.stopInProcess = func() {
		cancel()
		<-ended
	}
	l.mu.Unlock()
	return poll(ctx, func(ctx context.Context) (bool, error) {
		select {
		case err := <-ended:
			ended <- err
			return true, err
		default:
		}
		err := ready(ctx)
		return err == nil, err
	})
}

// SetMachines leaves this share of the nodes' machines on, in percent: the agents of the others are cut off, as when
// machines are taken away. It needs no API server.
func (l *Lab) SetMachines(ctx context.Context, percent int) error {
	l.mu.Lock()
	url := strings.TrimSuffix(l.agentsURL, "/metrics")
	l.mu.Unlock()
	if url == "" {
		return errors.New("switching machines: agents were not started")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"/machines?percent="+strconv.Itoa(percent), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("switching machines: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("switching machines: the agents answered %s", resp.Status)
	}
	return nil
}

// AgentStats is what all agents did since StartAgents.
type AgentStats struct {
	Running               int
	OK, Throttled, Errors float64 // requests by result; each retry is one
	ReceivedBytes         float64
	RefusedLimit          float64 // pods that got no agent because of Options.AgentLimit
	RefusedBehaviour      float64 // pods that got none because their annotations are wrong
}

// AgentStats reads the runner's metrics.
func (l *Lab) AgentStats(ctx context.Context) (AgentStats, error) {
	l.mu.Lock()
	url := l.agentsURL
	l.mu.Unlock()
	if url == "" {
		return AgentStats{}, errors.New("reading agents' metrics: agents were not started")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return AgentStats{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return AgentStats{}, fmt.Errorf("reading agents' metrics: %w", err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return AgentStats{}, fmt.Errorf("parsing agents' metrics: %w", err)
	}
	value := func(name, label string) float64 {
		for _, m := range families[name].GetMetric() {
			if label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
				return metricValue(m)
			}
		}
		return 0
	}
	return AgentStats{
		Running:          int(value("seakeep_lab_agents_running", "")),
		OK:               value("seakeep_lab_agent_requests_total", "ok"),
		Throttled:        value("seakeep_lab_agent_requests_total", "429"),
		Errors:           value("seakeep_lab_agent_requests_total", "error"),
		ReceivedBytes:    value("seakeep_lab_agent_received_bytes_total", ""),
		RefusedLimit:     value("seakeep_lab_agents_refused_total", "limit"),
		RefusedBehaviour: value("seakeep_lab_agents_refused_total", "behaviour"),
	}, nil
}

func metricValue(m *dto.Metric) float64 {
	if m.GetGauge() != nil {
		return m.GetGauge().GetValue()
	}
	return m.GetCounter().GetValue()
}
