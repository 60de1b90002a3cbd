package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/forecast/rehearse"
)

// agentVariable makes this program the agent that is rehearsed, of the variation it holds.
const agentVariable = "SEAKEEP_BENCH_AGENT"

// becomeAgent runs the agent and never returns, if this process is to be one.
func becomeAgent() {
	text := os.Getenv(agentVariable)
	if text == "" {
		return
	}
	var v variation
	err := json.Unmarshal([]byte(text), &v)
	if err == nil {
		err = v.ask(os.Getenv("KUBECONFIG"))
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}

// ask asks for ever.
func (v variation) ask(kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.DisableCompression = true // as it is said by hand
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	path := config.Host + "/api/v1/namespaces/" + v.Name + "/configmaps"
	if v.Cached {
		path += "?resourceVersion=0"
	}
	for {
		began := time.Now()
		request, err := http.NewRequest(http.MethodGet, path, nil)
		if err != nil {
			return err
		}
		request.Header.Set("Accept", "application/json")
		if v.Protobuf {
			request.Header.Set("Accept", "application/vnd.kubernetes.protobuf")
		}
		if v.Gzip {
			request.Header.Set("Accept-Encoding", "gzip")
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("the API server answers %s", response.Status)
		}
		<-time.After(time.Until(began.Add(v.Period + time.Duration(jitter*rand.Float64()*float64(v.Period)))))
	}
}

// rehearse runs the components' agents as programs, all components at a time, on 1, 3 and 9 nodes.
func (r *rig) rehearse(ctx context.Context, c *cluster, all []variation) (map[string][]forecast.Sample, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	authority, err := os.ReadFile(c.lab.CAFile())
	if err != nil {
		return nil, fmt.Errorf("reading the lab's authority: %w", err)
	}
	rehearsals := make([]*rehearse.Rehearsal, len(all))
	defer func() {
		for _, one := range rehearsals {
			if one == nil {
				continue
			}
			if err := one.End(context.WithoutCancel(ctx)); err != nil {
				r.say("ending a rehearsal: %v", err)
			}
		}
	}()
	for i, v := range all {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		rehearsals[i], err = rehearse.New(ctx, rehearse.Options{
			Client: c.kube, Server: c.lab.APIServerURL(0), CA: authority, Dir: filepath.Join(r.dir, "rehearsal", v.Name), Exec: self,
			Env: []string{agentVariable + "=" + string(text)}, ServiceAccount: v.Name + "/" + account,
		})
		if err != nil {
			return nil, err
		}
		rehearsals[i].Objects = v.Objects
	}
	samples := map[string][]forecast.Sample{}
	var mu sync.Mutex
	for _, n := range []int{0, 1, 3, 9} {
		slowest := time.Duration(0)
		for i, v := range all {
			if err := rehearsals[i].Grow(ctx, n); err != nil {
				return nil, err
			}
			slowest = max(slowest, v.Period)
		}
		windows := 3
		if n == 0 {
			windows, slowest = 1, 0
		}
		if err := run.Pause(ctx, slowest+time.Second); err != nil { // their first requests are their start
			return nil, err
		}
		r.say("rehearsing %d components on %d nodes for %s", len(all), n, time.Duration(windows)*r.options.window)
		errs := make([]error, len(all))
		var group sync.WaitGroup
		for i, v := range all {
			group.Go(func() {
				name := schemaOf(v).Name()
				meter := &observe.Flow{Servers: []observe.Server{c.server}, Schema: name, Level: name}
				hold := observe.Hold{Window: r.options.window, Windows: windows, Skip: func(why string) { r.say("%s: no sample: %s", v.Name, why) }}
				errs[i] = observe.Samples(ctx, meter, rehearsals[i], hold, func(s forecast.Sample) {
					mu.Lock()
					defer mu.Unlock()
					samples[v.Name] = append(samples[v.Name], s)
				})
			})
		}
		group.Wait()
		for _, err := range errs {
			if err != nil {
				return nil, err
			}
		}
	}
	return samples, nil
}
