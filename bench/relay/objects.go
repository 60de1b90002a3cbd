package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// manyName is a collection of so many objects that one LIST is hundreds of megabytes of work: 20 agents read it, which is
// measured only when it is asked for, because making it takes minutes.
const (
	manyName   = "many objects"
	manyAgents = 20
)

func (r *rig) measureObjects(ctx context.Context, report *result.Report) error {
	count := r.options.objects
	name := fmt.Sprintf("%s, LIST of %d, %d agents", manyName, count, manyAgents)
	if count == 0 || !r.options.Wanted(name) {
		return nil
	}
	r.say("%s", name)
	began := time.Now()
	if err := r.fill(ctx, "many", count); err != nil {
		return err
	}
	filled := time.Since(began).Round(time.Second)
	s := sharing{agents: manyAgents, saturates: true, path: "/api/v1/namespaces/many/configmaps", objects: count}
	delivered, took, memory, proxy, server := result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}
	var notes []string
	err := run.Turns(r.options.Rounds, []string{directName, gateName}, func(contender string) error {
		got, err := r.turn(ctx, s, contender, r.options.Turn, nil)
		if err != nil {
			return fmt.Errorf("through %s: %w", contender, err)
		}
		delivered.Add(contender, got.PerSecond())
		if got.Failed+got.Wrong+got.Refused > 0 {
			notes = append(notes, fmt.Sprintf("Through %s %d failed, %d were not complete, %d were refused, the first: %s.", contender, got.Failed, got.Wrong, got.Refused, got.Err))
		}
		if got.Delivered > 0 {
			took.Add(contender, got.P50)
			server.Add(contender, got.cpu.server/float64(got.Delivered)*1000)
		}
		if contender != directName {
			memory.Add(contender, float64(got.peak)/(1<<20))
			if got.Delivered > 0 {
				proxy.Add(contender, got.cpu.proxy/float64(got.Delivered)*1000)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range []struct {
		runs         result.Runs
		metric, unit string
	}{
		{delivered, "complete answers delivered", "1/s"}, {took, "an answer took, p50", "ms"}, {server, "CPU of the API server per delivered answer", "ms"},
		{proxy, "CPU of the proxy per delivered answer", "ms"}, {memory, "peak memory of the proxy over idle", "MiB"},
	} {
		if len(m.runs[gateName]) > 0 {
			report.Cases = append(report.Cases, m.runs.Case(name, m.metric, m.unit, gateName))
		}
	}
	notes = append(notes, fmt.Sprintf("Making the objects took %s.", filled))
	report.Cases[len(report.Cases)-1].Note = strings.Join(notes, " ")
	return nil
}

// fill makes small ConfigMaps.
func (r *rig) fill(ctx context.Context, ns string, count int) error {
	if _, err := r.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making a namespace: %w", err)
	}
	errs := make([]error, 32)
	var making sync.WaitGroup
	for w := range errs {
		making.Go(func() {
			for i := w; i < count && errs[w] == nil; i += len(errs) {
				object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("object-%06d", i)}, Data: map[string]string{"n": fmt.Sprint(i)}}
				if _, err := r.kube.CoreV1().ConfigMaps(ns).Create(ctx, object, metav1.CreateOptions{}); err != nil {
					errs[w] = fmt.Errorf("making object %d: %w", i, err)
				}
			}
		})
	}
	making.Wait()
	return errors.Join(errs...)
}
