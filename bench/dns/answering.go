package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// answering is what a query costs, and how many there can be.
const answering = "A queries"

// asked is what dnsperf says.
type asked struct {
	sent, completed, good int
	perSecond             float64
}

var (
	sentLine      = regexp.MustCompile(`Queries sent:\s+(\d+)`)
	completedLine = regexp.MustCompile(`Queries completed:\s+(\d+)`)
	noErrorPart   = regexp.MustCompile(`NOERROR (\d+)`)
	rateLine      = regexp.MustCompile(`Queries per second:\s+([0-9.]+)`)
)

func parseAsked(out []byte) (a asked, err error) {
	for _, field := range []struct {
		what *regexp.Regexp
		to   *int
	}{{sentLine, &a.sent}, {completedLine, &a.completed}, {noErrorPart, &a.good}} {
		match := field.what.FindSubmatch(out)
		if match == nil {
			return a, fmt.Errorf("dnsperf did not say %q: %s", field.what, out)
		}
		if *field.to, err = strconv.Atoi(string(match[1])); err != nil {
			return a, fmt.Errorf("reading what dnsperf says: %w", err)
		}
	}
	match := rateLine.FindSubmatch(out)
	if match == nil {
		return a, fmt.Errorf("dnsperf did not say %q: %s", rateLine, out)
	}
	a.perSecond, err = strconv.ParseFloat(string(match[1]), 64)
	return a, err
}

// ask runs dnsperf against a server at a rate.
func (r *rig) ask(ctx context.Context, s *server, file string, rate int, during time.Duration) (asked, error) {
	path, err := dnsperf.Find()
	if err != nil {
		return asked{}, err
	}
	host, port := "127.0.0.1", s.address[len("127.0.0.1:"):]
	args := []string{"-s", host, "-p", port, "-d", file, "-l", strconv.FormatFloat(during.Seconds(), 'f', -1, 64), "-c", "16", "-T", "1", "-t", "1",
		"-Q", strconv.Itoa(rate), "-q", "2000"}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		return asked{}, fmt.Errorf("running dnsperf: %w: %s", err, out)
	}
	a, err := parseAsked(out)
	if err == nil && a.good*1000 < a.completed*999 {
		err = fmt.Errorf("%s answered %d of %d queries otherwise than with an address", s.contender, a.completed-a.good, a.completed)
	}
	return a, err
}

// used is the CPU time of a server while something runs, in seconds.
func used(s *server, f func() error) (float64, error) {
	before, err := machine.CPUSeconds(s.process.PID())
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := machine.CPUSeconds(s.process.PID())
	return after - before, err
}

const answeringProfile = "CPU of seakeep-dns under A queries"

// warmUp lets answers be made once and caches fill before anything is measured.
const warmUp = 500 * time.Millisecond

func (r *rig) measureAnswering(ctx context.Context, report *result.Report) (err error) {
	order := []string{seakeepName, stockName, cacheName, unboundName}
	servers, err := r.startAll(ctx, "-answering", order)
	defer func() { err = errors.Join(err, stopAll(context.WithoutCancel(ctx), servers)) }()
	if err != nil {
		return err
	}
	file, err := r.queryFile()
	if err != nil {
		return err
	}
	cpu, busy, most, rate := result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}
	lost := map[string]int{}
	err = run.Turns(r.options.Rounds, order, func(contender string) error {
		s := servers[contender]
		if _, err := r.ask(ctx, s, file, r.options.rate, warmUp); err != nil {
			return err
		}
		var a asked
		seconds, err := used(s, func() (err error) {
			a, err = r.ask(ctx, s, file, r.options.rate, r.options.Turn)
			return err
		})
		if err != nil {
			return err
		}
		cpu.Add(contender, seconds/float64(a.completed)*1e6)
		rate.Add(contender, a.perSecond)
		lost[contender] += a.sent - a.completed
		perSecond := 0.0
		seconds, err = used(s, func() (err error) {
			perSecond, err = saturate(ctx, s, r.populated, r.options.Turn)
			return err
		})
		if err != nil {
			return err
		}
		most.Add(contender, perSecond)
		busy.Add(contender, seconds/(perSecond*r.options.Turn.Seconds())*1e6)
		return nil
	})
	if err != nil {
		return err
	}
	for contender := range servers {
		r.capacity[contender] = result.Median(most[contender])
	}
	at := fmt.Sprintf("%s, %d/s", answering, r.options.rate)
	c := cpu.Case(at, "CPU of the server per query", "µs", seakeepName)
	for _, contender := range order {
		if lost[contender] > 0 {
			c.Note += fmt.Sprintf("%s left %d queries without an answer. ", contender, lost[contender])
		}
	}
	cases := []result.Case{c}
	for _, bound := range []struct {
		baseline string
		most     float64
	}{{stockName, 1 / 2.5}, {cacheName, 1 / 1.5}, {unboundName, 1.2}} {
		ratio := result.Runs{seakeepName: cpu.Paired(seakeepName, bound.baseline, func(a, b float64) float64 { return a / b })}
		c := ratio.Case(at, "CPU per query, times that of "+bound.baseline, "×", seakeepName)
		c.AtMost(bound.most)
		c.Profile = answeringProfile
		cases = append(cases, c)
	}
	cases = append(cases,
		rate.Case(at, "answers", "1/s", seakeepName),
		most.Case(answering+", saturated", "answers", "1/s", seakeepName),
		busy.Case(answering+", saturated", "CPU of the server per query", "µs", seakeepName))
	r.unneeded(cases)
	report.Cases = append(report.Cases, cases...)
	if missed(cases) {
		return r.profileCPU(ctx, report, answeringProfile, "dns-cpu.pprof", servers[seakeepName], func(during time.Duration) error {
			_, err := r.ask(ctx, servers[seakeepName], file, r.options.rate, during)
			return err
		})
	}
	return nil
}
