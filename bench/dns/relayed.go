package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/lab"
)

// relayed is the same as fleet with a relay between: a process, as the instances are.
const relayed = "many instances restart behind a relay"

const relayedProfile = "LISTs of the API server's audit log, after its restart, behind a relay"

const (
	// beginners are how many processes of the fleet start at the same time: more would only take the CPU from each other.
	beginners = 8
	// caughtUp is how long all may take to have what was written after the API server's restart: the relay spreads its own
	// lists over a minute.
	caughtUp = 3 * time.Minute
)

var relayCorefile = template.Must(template.New("").Parse(`.:{{.Port}} {
    bind 127.0.0.1
    errors
    seakeep cluster.local in-addr.arpa ip6.arpa {
        kubeconfig {{.Kubeconfig}} lab
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
        snapshot {{.Snapshots}}
        {{- if .Serve}}
        relay {{.Serve}} {
            plain
        }
        {{- else}}
        source relay http://{{.From}} {
            node {{.Name}}
        }
        source api
        {{- end}}
    }
    loadbalance
}
`))

// measureRelayed restarts the API server and, at the same time, every DNS server that follows it through a relay.
func (r *rig) measureRelayed(ctx context.Context, report *result.Report) (err error) {
	dirs, err := r.snapshots(ctx, "relayed")
	if err != nil {
		return err
	}
	port, err := r.port()
	if err != nil {
		return err
	}
	relay, err := r.relayServer(ctx, "relay", map[string]any{"Snapshots": filepath.Join(r.dir, "relay-snapshots"), "Serve": loopback(port)})
	servers := []*server{relay}
	defer func() {
		for _, s := range servers {
			if s != nil {
				s.process.Kill()
			}
		}
	}()
	if err != nil {
		return err
	}
	if err := run.Until(ctx, time.Minute, relay.answers(r.populated-1)); err != nil {
		return fmt.Errorf("waiting for the relay: %w", err)
	}
	seen := auditEnd(r.lab)
	if err := r.restartAPIServer(ctx); err != nil {
		return err
	}
	began := time.Now()
	instances := make([]*server, len(dirs))
	starting, inner := errgroup.WithContext(ctx)
	starting.SetLimit(beginners)
	for i, dir := range dirs {
		starting.Go(func() (err error) {
			name := "relayed-" + strconv.Itoa(i)
			if instances[i], err = r.relayServer(inner, name, map[string]any{"Snapshots": dir, "From": loopback(port), "Name": name}); err != nil {
				return err
			}
			return run.Until(inner, time.Minute, instances[i].answers(0)) // from its snapshot
		})
	}
	err = starting.Wait()
	servers = append(servers, instances...)
	if err != nil {
		return fmt.Errorf("starting the instances: %w", err)
	}
	started := time.Since(began)
	// Who answers for what was written after the restart follows the API server again.
	if err := r.populate(ctx, r.populated+1); err != nil {
		return err
	}
	for _, s := range servers {
		if err := run.Until(ctx, caughtUp, s.answers(r.populated-1)); err != nil {
			return fmt.Errorf("waiting for every instance to follow again: %w", err)
		}
	}
	lists, pages, err := auditedLists(r.lab.AuditLog(0), seen)
	if err != nil {
		return err
	}
	most, memory := 0, result.Runs{}
	for _, kind := range kinds {
		most = max(most, lists[kind])
	}
	for _, s := range instances {
		resident, err := machine.Resident(s.process.PID())
		if err != nil {
			return err
		}
		memory.Add(seakeepName, megabytes(resident))
	}
	c := result.Runs{seakeepName: {float64(most)}}.Case(relayed, "LISTs of the most listed kind after the API server's restart", "all", seakeepName)
	c.AtMost(1)
	c.Profile = relayedProfile
	c.Note = fmt.Sprintf("%d processes of seakeep-dns, each with a snapshot of its own, follow one relay, itself a seakeep-dns. The relay runs while the API server restarts; the %d begin, %d at a time, when it is back, in %.0f s. Counted in the audit log until each had answered for a service made after the restart: %s, in %d requests (pages of 500).",
		len(instances), len(instances), beginners, started.Seconds(), byKind(lists), pages)
	cases := []result.Case{c, memory.Case(relayed, "resident memory of an instance", "MB", seakeepName)}
	r.unneeded(cases)
	report.Cases = append(report.Cases, cases...)
	if missed(cases) {
		report.Profiles = append(report.Profiles, result.Profile{Name: relayedProfile, Top: strings.Split(byKind(lists), ", ")})
	}
	return nil
}

func byKind(lists map[string]int) string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(lists)) {
		parts = append(parts, fmt.Sprintf("%s %d", kind, lists[kind]))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// relayServer starts a seakeep-dns that serves a relay or follows one.
func (r *rig) relayServer(ctx context.Context, name string, values map[string]any) (*server, error) {
	port, err := r.port()
	if err != nil {
		return nil, err
	}
	values["Port"], values["Kubeconfig"] = port, r.config
	var text strings.Builder
	if err := relayCorefile.Execute(&text, values); err != nil {
		return nil, fmt.Errorf("writing the Corefile of %s: %w", name, err)
	}
	file := filepath.Join(r.dir, name+".corefile")
	if err := renameio.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return nil, fmt.Errorf("writing the Corefile of %s: %w", name, err)
	}
	s := &server{contender: name, address: loopback(port)}
	if s.process, err = r.lab.Run(ctx, lab.ProcessSpec{Name: name, Path: r.options.program, Args: []string{"-conf", file}, Env: r.goCPUs()}); err != nil {
		return nil, err
	}
	return s, r.place(s)
}

// auditEnd is how long the API server's audit log is now; 0 when there is none.
func auditEnd(l *lab.Lab) int64 {
	info, err := os.Stat(l.AuditLog(0))
	if err != nil {
		return 0
	}
	return info.Size()
}

// auditedLists counts the LISTs of the DNS servers, by kind, and the requests they took, in an audit log from an offset on.
func auditedLists(file string, from int64) (lists map[string]int, pages int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the audit log: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() < from {
		return nil, 0, errors.Join(err, errors.New("reading the audit log: it was rotated meanwhile"))
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("reading the audit log: %w", err)
	}
	return parseAuditedLists(f)
}

func parseAuditedLists(in io.Reader) (lists map[string]int, pages int, err error) {
	lists = map[string]int{}
	for lines := bufio.NewReader(in); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return lists, pages, nil // the rest of the last line is still being written
		}
		if err != nil {
			return nil, 0, fmt.Errorf("reading the audit log: %w", err)
		}
		var event struct {
			Verb       string
			RequestURI string
			User       struct{ Username string }
			ObjectRef  struct{ Resource string }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, 0, fmt.Errorf("reading the audit log: %w", err)
		}
		if event.Verb != "list" || event.User.Username != dnsUserName || !slices.Contains(kinds, event.ObjectRef.Resource) {
			continue
		}
		pages++
		if !strings.Contains(event.RequestURI, "continue=") {
			lists[event.ObjectRef.Resource]++
		}
	}
}
