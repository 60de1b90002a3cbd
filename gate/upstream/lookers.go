package upstream

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/seakeep/seakeep/internal/statefile"
)

// remembered are the places found last for an entry, in this process or before it; else where to begin.
func (k *Keeper) remembered(o *Options) places {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.kept[o.key()]; len(p) > 0 && len(p) <= maxDiscovered {
		return p
	}
	return places{o.seed()}
}

// key is of what decides which API servers an entry stands for.
func (o *Options) key() string {
	return o.Name + " " + o.URL + " " + o.Discovery.Service
}

// adopt takes other servers into use for an entry. Those that leave carry their requests to the end.
func (k *Keeper) adopt(g *Group, e *entry, next places, servers []*Server) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != g {
		return // the configuration has changed meanwhile
	}
	before := g.Servers()
	e.places, e.servers = next, servers
	g.gather()
	k.retire(before, g.Servers())
	k.kept[e.options.key()] = next
	k.log.Info("API servers found", "upstream", e.options.Name, "servers", strings.Join(next, " "))
	if k.file != nil {
		if err := k.file.Save(k.kept); err != nil {
			k.log.Error("The API servers found are not kept: after a restart the gate begins where the configuration says", "reason", err)
		}
	}
	k.signal()
}

// Remember keeps the API servers that are looked for in a folder, over restarts, and reads those kept there. self is the
// gate's own address, which is never one of them. It is to be called before Prepare.
func (k *Keeper) Remember(dir, self string) {
	k.self, k.file = self, statefile.New(dir, "upstreams.json", 1)
	if _, err := k.file.Load(&k.kept); err != nil && !errors.Is(err, statefile.ErrNone) {
		k.log.Warn("Beginning where the configuration says: the API servers found last cannot be read", "reason", err)
	}
	if k.kept == nil {
		k.kept = map[string]places{}
	}
}

// lookers look for the API servers of the entries of one group that stand for several.
type lookers struct {
	group *Group
	end   func()
}

// follow looks for those of the group in use, and no longer for those of another.
func (l *lookers) follow(ctx context.Context, k *Keeper) {
	k.mu.Lock()
	current := k.current
	k.mu.Unlock()
	if current == l.group {
		return
	}
	l.stop()
	l.group = current
	ctx, cancel := context.WithCancel(ctx)
	var owned sync.WaitGroup
	for _, e := range current.entries {
		if e.options.Discovery != nil {
			owned.Go(func() { k.keepLooking(ctx, current, e) })
		}
	}
	l.end = func() { cancel(); owned.Wait() }
}

func (l *lookers) stop() {
	if l.end != nil {
		l.end()
	}
	l.end = nil
}

// keepLooking looks for an entry's API servers until the context ends.
func (k *Keeper) keepLooking(ctx context.Context, g *Group, e *entry) {
	ticker := time.NewTicker(e.options.Discovery.Refresh)
	defer ticker.Stop()
	failing := false
	for {
		err := k.look(ctx, g, e)
		if ctx.Err() != nil {
			return
		}
		k.metrics.looked(e.options.Name, err)
		if failed := err != nil; failed != failing {
			failing = failed
			if failed {
				k.log.Warn("Keeping the API servers found last", "upstream", e.options.Name, "reason", err)
			} else {
				k.log.Info("API servers are found again", "upstream", e.options.Name)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
