package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/lab"
)

// scale is the large cluster: memory, the re-list that killed DNS servers, and the restart without an API server.
const scale = "large cluster"

const (
	heapProfile  = "memory of seakeep-dns in the large cluster"
	startProfile = "log of seakeep-dns started without an API server"
	// copies of each contender run at the same time, so that one re-list measures all.
	copies = 3
	// settling is how long each is asked before its memory is read: what the first list left is collected then.
	settling = 5 * time.Second
	// relisted is how long a re-list may take to come: instances spread theirs over a minute, after a back-off.
	relisted = 100 * time.Second
	// patience is how long a server started without an API server is given.
	patience = 10 * time.Second
)

func (r *rig) measureScale(ctx context.Context, report *result.Report) (err error) {
	if err := r.populate(ctx, r.options.grown); err != nil {
		return err
	}
	if err := r.touch(ctx); err != nil {
		return err
	}
	file, err := r.queryFile()
	if err != nil {
		return err
	}
	var servers []*server
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.process.Stop(context.WithoutCancel(ctx)))
		}
	}()
	for n := range copies {
		for _, contender := range []string{seakeepName, stockName} {
			s, err := r.coreDNS(ctx, contender, fmt.Sprintf("%s-large-%d", contender, n))
			if err != nil {
				return err
			}
			servers = append(servers, s)
			if err := run.Until(ctx, 2*time.Minute, s.answers(r.populated-1)); err != nil {
				return fmt.Errorf("waiting for %s: %w", contender, err)
			}
		}
	}
	if err := r.settle(ctx, servers, file); err != nil {
		return err
	}
	steady := result.Runs{}
	for _, s := range servers {
		resident, err := machine.Resident(s.process.PID())
		if err != nil {
			return err
		}
		steady.Add(s.contender, megabytes(resident))
	}
	peak, growth, err := r.relist(ctx, servers, steady)
	if err != nil {
		return err
	}
	at := fmt.Sprintf("%s, %d services, %d endpoints", scale, r.populated, r.populated*endpointsPerSlice)
	c := steady.Case(at, "resident memory", "MB", seakeepName)
	c.Note = fmt.Sprintf("%d processes of each at the same time, each asked for every name for %s before.", copies, settling)
	times := result.Runs{seakeepName: steady.Paired(seakeepName, stockName, func(a, b float64) float64 { return a / b })}.
		Case(at, "resident memory, times that of "+stockName, "×", seakeepName)
	times.AtMost(1.25)
	grown := growth.Case(at, "re-list after the API server's restart, peak times steady", "×", seakeepName)
	grown.AtMost(1.3)
	grown.Note = "The peak is VmHWM, reset before the restart; steady is the memory just before."
	times.Profile, grown.Profile = heapProfile, heapProfile
	cases := []result.Case{c, times, peak.Case(at, "peak memory of the re-list", "MB", seakeepName), grown}
	r.unneeded(cases)
	report.Cases = append(report.Cases, cases...)
	if missed(cases) {
		if err := r.profileHeap(ctx, report, heapProfile, "dns-heap.pprof", servers[0]); err != nil {
			return err
		}
	}
	return r.measureStart(ctx, report, servers[0], servers[1])
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// settle asks each server for everything, slowly.
func (r *rig) settle(ctx context.Context, servers []*server, file string) error {
	for _, s := range servers {
		if _, err := r.ask(ctx, s, file, 4000, settling); err != nil {
			return err
		}
	}
	return nil
}

// touch writes something, so that the API server's version moves on.
func (r *rig) touch(ctx context.Context) error {
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "touch-", Namespace: "default"}}
	if _, err := r.kube.CoreV1().ConfigMaps("default").Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("writing something: %w", err)
	}
	return nil
}

// relist restarts the API server and waits until every server has read everything again. A new service, made after the
// restart, says so: a server that answers for it follows the API server again.
func (r *rig) relist(ctx context.Context, servers []*server, steady result.Runs) (peak, growth result.Runs, err error) {
	before := map[*server]float64{}
	for _, s := range servers {
		if err := resetPeak(s.process.PID()); err != nil {
			return nil, nil, err
		}
		if s.contender == seakeepName {
			if before[s], err = listsOf(ctx, s); err != nil {
				return nil, nil, err
			}
		}
	}
	if err := r.restartAPIServer(ctx); err != nil {
		return nil, nil, err
	}
	if err := r.populate(ctx, r.populated+1); err != nil {
		return nil, nil, err
	}
	err = run.Until(ctx, relisted, func(ctx context.Context) error {
		for _, s := range servers {
			if err := s.answers(r.populated - 1)(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("waiting for the re-list: %w", err)
	}
	// The new service is seen with the list of services; endpoint slices, which are most of the memory, may come after.
	if err := run.Pause(ctx, settling); err != nil {
		return nil, nil, err
	}
	peak, growth = result.Runs{}, result.Runs{}
	for _, s := range servers {
		high, err := peakOf(s.process.PID())
		if err != nil {
			return nil, nil, err
		}
		if s.contender == seakeepName {
			after, err := listsOf(ctx, s)
			if err != nil {
				return nil, nil, err
			}
			if after-before[s] < float64(len(kinds)) {
				return nil, nil, fmt.Errorf("%s has listed %g kinds since the API server's restart, so that its memory says nothing of a re-list", s.process.Name, after-before[s])
			}
		}
		n := len(peak[s.contender])
		peak.Add(s.contender, megabytes(high))
		growth.Add(s.contender, megabytes(high)/steady[s.contender][n])
	}
	return peak, growth, nil
}

// listsOf is how often a seakeep-dns says it has listed.
func listsOf(ctx context.Context, s *server) (sum float64, err error) {
	text, err := fetch(ctx, "http://"+s.metrics+"/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "seakeep_dns_source_lists_total{") {
			continue
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("reading the metrics of %s: %w", s.process.Name, err)
		}
		sum += v
	}
	return sum, nil
}

// resetPeak makes the kernel forget the highest memory of a process.
func resetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("resetting the peak memory of process %d: %w", pid, err)
	}
	return nil
}

// peakOf is the highest resident memory since resetPeak, in bytes.
func peakOf(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the peak memory of process %d: %w", pid, err)
	}
	return parsePeak(data)
}

func parsePeak(status []byte) (int64, error) {
	_, after, found := bytes.Cut(status, []byte("VmHWM:"))
	fields := bytes.Fields(after)
	if !found || len(fields) < 2 || string(fields[1]) != "kB" {
		return 0, errors.New("the process's status has no VmHWM in kB")
	}
	kilobytes, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading VmHWM: %w", err)
	}
	return kilobytes << 10, nil
}

// measureStart kills DNS servers while there is no API server and times how long each is without answers.
func (r *rig) measureStart(ctx context.Context, report *result.Report, ours, stock *server) (err error) {
	if err := ours.process.Stop(ctx); err != nil { // which writes what it has
		return err
	}
	p, _ := r.lab.Process(lab.KindAPIServer)
	if err := p.Stop(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Start(context.WithoutCancel(ctx)), r.pinLoad(p)) }()
	took := result.Runs{}
	for range r.options.Rounds {
		ours.process.Kill()
		began := time.Now()
		if err := ours.process.Start(ctx); err != nil {
			return err
		}
		if err := r.place(ours); err != nil {
			return err
		}
		if err := run.Until(ctx, patience, ours.answers(r.populated-2)); err != nil {
			return fmt.Errorf("starting without an API server: %w", err)
		}
		took.Add(seakeepName, time.Since(began).Seconds())
	}
	codes, err := r.stockAnswers(ctx, stock)
	if err != nil {
		return err
	}
	c := took.Case(fmt.Sprintf("%s, %d services, started without an API server", scale, r.populated), "exec to the first answer", "s", seakeepName)
	c.AtMost(1)
	c.Profile = startProfile
	c.Note = fmt.Sprintf("The process was killed each time. %s, started the same way, answered within %s: %s.", stockName, patience, codes)
	cases := []result.Case{c}
	r.unneeded(cases)
	report.Cases = append(report.Cases, cases...)
	if missed(cases) {
		log, err := os.ReadFile(ours.process.LogFile())
		if err != nil {
			return fmt.Errorf("reading the log of %s: %w", seakeepName, err)
		}
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		report.Profiles = append(report.Profiles, result.Profile{Name: startProfile, Top: lines[max(0, len(lines)-topFrames):]})
	}
	return nil
}

// stockAnswers is what a stock server says that was started without an API server.
func (r *rig) stockAnswers(ctx context.Context, s *server) (string, error) {
	s.process.Kill()
	if err := s.process.Start(ctx); err != nil {
		return "", err
	}
	if err := r.place(s); err != nil {
		return "", err
	}
	codes := map[string]int{}
	for began := time.Now(); time.Since(began) < patience; {
		m, _, err := (&dns.Client{Timeout: time.Second}).ExchangeContext(ctx, new(dns.Msg).SetQuestion(fullName(0), dns.TypeA), s.address)
		switch {
		case err != nil:
			codes["nothing"]++
		default:
			codes[dns.RcodeToString[m.Rcode]]++
		}
		if err := run.Pause(ctx, 100*time.Millisecond); err != nil {
			return "", err
		}
	}
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		parts = append(parts, fmt.Sprintf("%s %d×", code, codes[code]))
	}
	return strings.Join(parts, ", "), nil
}
