package upstream

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/seakeep/seakeep/gate/admit/law"
	"github.com/seakeep/seakeep/gate/upstream/choice"
	"github.com/seakeep/seakeep/signals"
)

// Load is what one API server in use last said of how loaded it is.
type Load struct {
	Name string
	// Serving is whether requests go to it, and Quorum whether it has its etcd: false only when that circuit is out.
	Serving, Quorum bool
	// Last is the latest reading, and Change what happened since the one before; nil when there is none, and Change is zero
	// for the first.
	Last   *signals.Load
	Change signals.LoadChange
	// Failed is why there is no newer reading; nil when the last attempt was good, or there was none yet.
	Failed error
}

// FollowLoad has every API server in use asked how loaded it is, every one to five seconds, or ends that. Run does it.
func (k *Keeper) FollowLoad(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.loads = on
	k.signal()
}

// Loads is what the API servers in use say of their load.
func (k *Keeper) Loads(now time.Time) []Load {
	servers := k.Servers()
	loads := make([]Load, len(servers))
	for i, s := range servers {
		view := k.table.View(now, s.state)
		loads[i] = s.load.latest()
		loads[i].Name = s.Name
		loads[i].Serving = view.States[choice.Serving] != choice.Out
		loads[i].Quorum = view.States[choice.Quorum] != choice.Out
	}
	return loads
}

// Evidence is the load as the law takes it. cpu and memory are what the configuration says an API server has, in processors
// and bytes; 0 is what it says itself.
func (l *Load) Evidence(cpu, memory float64) law.Server {
	e := law.Server{Name: l.Name, Serving: l.Serving}
	if l.Last == nil {
		return e
	}
	e.Reading = &law.Reading{
		At: l.Last.Read, Over: time.Duration(l.Change.Seconds * float64(time.Second)), Started: l.Last.Started,
		CPU: l.Change.CPU(), CPUBound: l.Last.Processors,
		// What is held and free is what the heap grows into first.
		Resident: max(0, l.Last.ResidentBytes-l.Last.HeapFreeBytes), MemoryBound: l.Last.MemoryLimit,
		InFlight:    l.Last.InFlight(),
		EtcdLatency: l.Change.EtcdLatency(), EtcdRequests: l.Change.EtcdRequests,
		NoLeader: !l.Quorum,
	}
	if cpu > 0 {
		e.Reading.CPUBound = cpu
	}
	if memory > 0 {
		e.Reading.MemoryBound = memory
	}
	if l.Change.Seconds > 0 {
		// What API Priority and Fairness turns away is among the 429s.
		e.Reading.TooMany = max(l.Change.TooMany, l.Change.Rejected) / l.Change.Seconds
	}
	return e
}

// loadReaders read the load of servers, each in a goroutine of its own.
type loadReaders map[*Server]func()

// follow sees to it that all servers in use are read while that is wanted, and no others.
func (l loadReaders) follow(ctx context.Context, k *Keeper) {
	k.mu.Lock()
	wanted := k.loads
	k.mu.Unlock()
	var servers []*Server
	if wanted {
		servers = k.Servers()
	}
	for s, stop := range l {
		if !slices.Contains(servers, s) {
			stop()
			delete(l, s)
		}
	}
	for _, s := range servers {
		if l[s] != nil {
			continue
		}
		reading, cancel := context.WithCancel(ctx)
		reader := &loadReader{server: s, headers: k.identity, said: k.saidLoad}
		var running sync.WaitGroup
		running.Go(func() { reader.run(reading) })
		l[s] = func() { cancel(); running.Wait() }
	}
}

func (l loadReaders) stop() {
	for _, stop := range l {
		stop()
	}
}

// saidLoad says that a server begins or ceases to say how loaded it is.
func (k *Keeper) saidLoad(s *Server, err error) {
	if err != nil {
		k.log.Warn("API server does not say how loaded it is: the limit may fall and does not rise", "upstream", s.Name, "reason", err)
		return
	}
	k.log.Info("API server says how loaded it is again", "upstream", s.Name)
}
