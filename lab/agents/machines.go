package agents

import (
	"context"
	"hash/fnv"
	"sync"
)

// Machines says which part of the nodes' machines is switched on. An agent on one that is off makes no request, and the
// one it was making breaks off, as when a machine is taken away; its pod stays, because nobody has told the API server.
type Machines struct {
	mu      sync.Mutex
	percent int
	changed chan struct{} // closed and replaced when percent changes
}

// NewMachines returns machines that are all on.
func NewMachines() *Machines { return &Machines{percent: 100, changed: make(chan struct{})} }

// Set leaves this share of the machines on, always the same ones for the same share.
func (m *Machines) Set(percent int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.percent = percent
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Machines) on(node string) (on bool, changed <-chan struct{}) {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(node))
	m.mu.Lock()
	defer m.mu.Unlock()
	return int(hash.Sum32()%100) < m.percent, m.changed
}

// run calls f while the node's machine is on, again each time it comes back, until the context ends.
func (m *Machines) run(ctx context.Context, node string, f func(context.Context)) {
	for ctx.Err() == nil {
		on, changed := m.on(node)
		if !on {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		power, off := context.WithCancel(ctx)
		var ended sync.WaitGroup
		ended.Go(func() { f(power) })
		for on && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-changed:
				on, changed = m.on(node)
			}
		}
		off()
		ended.Wait()
	}
}
