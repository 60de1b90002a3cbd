package law

import (
	"math"
	"time"
)

const (
	quietCPU = 0.6  // of the bound: below it the control plane is quiet
	fullCPU  = 0.97 // of the bound: from here on only latency tells how much too much it is

	smoothing = 2.5  // seconds: a LIST more or less makes a reading of one second swing by half of two processors
	gain      = 0.4  // of the limit a second, when nothing of the target is used
	quietGain = 0.6  // the same while the control plane is quiet: what it does then says how much more it could
	maxRise   = 0.3  // of the limit on one reading
	slowRise  = 0.05 // of the limit a second, where the processors are not known

	etcdRequests = 5 // requests to etcd in an interval, below which their mean says nothing
	etcdBaseMost = 0.025
)

// fallCPU is the part of the processors from which the limit falls, and riseCPU that below which it rises. What lies
// between is the target and its noise.
func fallCPU(c *Config) float64 { return min(0.97, c.CPU+0.05) }
func riseCPU(c *Config) float64 { return c.CPU - 0.05 }

// server is what is known of one API server.
type server struct {
	name    string
	serving bool
	seats   float64

	read, started time.Time
	fresh         bool
	cpu           float64 // smoothed, of the bound
	cpuKnown      bool
	etcd          float64 // seconds
	etcdBase      float64
	memory        memory
	pressures     map[Signal]float64

	settle  settling
	latency efficacy // of etcd
	fellAt  time.Time
	held    Signal // what kept the limit from rising at the last reading; "" when it rose or was not used
}

func newServer(name string, seats float64) *server {
	return &server{name: name, seats: seats, pressures: map[Signal]float64{}}
}

// round is what all servers have in common at one tick.
type round struct {
	config  *Config
	window  *window
	passive *Passive
	serving int
	mean    float64 // seats of a serving server
	used    float64
	held    Signal // what all have in common that speaks against a rise; "" nothing
	quiet   bool   // few of the seats are held
}

func (r *Reading) clean() Reading {
	c := *r
	c.CPU, c.CPUBound = amount(c.CPU), amount(c.CPUBound)
	c.Resident, c.MemoryBound = amount(c.Resident), amount(c.MemoryBound)
	c.InFlight, c.TooMany, c.Rejected = amount(c.InFlight), amount(c.TooMany), amount(c.Rejected)
	c.EtcdRequests = amount(c.EtcdRequests)
	c.EtcdLatency = max(0, c.EtcdLatency)
	c.Over = min(max(0, c.Over), time.Minute)
	return c
}

// isFresh is whether a reading still says how its server is.
func isFresh(now time.Time, r *Reading, staleAfter time.Duration) bool {
	return r != nil && now.Sub(r.At) <= staleAfter && r.At.Sub(now) <= 2*time.Second
}

// look takes what the server says of itself. Only a reading that was not there at the last tick moves anything.
func (s *server) look(now time.Time, reading *Reading, all *round) {
	s.memory.held(now, all.passive.ListBytes/float64(max(1, all.serving)))
	if !s.fresh {
		s.memory.blind(all.config)
		return
	}
	if !reading.At.After(s.read) {
		return
	}
	r := reading.clean()
	s.read = r.At
	if !r.Started.IsZero() && !s.started.IsZero() && r.Started.Sub(s.started).Abs() > time.Second {
		s.restarted(all)
	}
	s.started = r.Started
	s.weigh(&r, all)
	s.memory.look(&r, all, s.cpu < quietCPU && all.quiet)
	s.pressures[Memory] = s.memory.pressure()
	if !s.serving {
		return
	}
	if factor := s.over(now, &r, all); factor < 1 {
		// Requests go where the fewest seats are held, so all servers are loaded alike whatever each may take. Who may take
		// more than the others falls more and rises less, or chance would drive them apart.
		factor = math.Pow(factor, min(max(1, s.seats/all.mean), 2))
		s.fallTo(now, max(s.seats*factor, all.config.Min/float64(max(1, all.serving))))
		return
	}
	s.rise(&r, all)
}

// restarted begins anew with a process whose caches are cold; its memory is another too.
func (s *server) restarted(all *round) {
	s.seats = min(s.seats, all.config.Initial/float64(max(1, all.serving)))
	s.memory = memory{factor: s.memory.factor}
	s.cpuKnown = false
}

// weigh turns a reading into pressures.
func (s *server) weigh(r *Reading, all *round) {
	clear(s.pressures)
	if r.CPUBound > 0 && r.Over > 0 {
		use := min(r.CPU/r.CPUBound, 2)
		if !s.cpuKnown {
			s.cpu, s.cpuKnown = use, true
		}
		s.cpu += (use - s.cpu) * (1 - math.Exp(-r.Over.Seconds()/smoothing))
	} else if r.CPUBound == 0 {
		s.cpuKnown, s.cpu = false, 0
	}
	if s.cpuKnown {
		s.pressures[CPU] = s.cpu / fallCPU(all.config)
	}
	if r.NoLeader {
		s.pressures[Leader] = 1
	}
	if r.EtcdRequests >= etcdRequests {
		s.weighEtcd(r, all)
	}
	if s.etcdBase > 0 && s.etcd > 0 {
		s.pressures[Etcd] = s.etcd / s.etcdOver()
	}
}

// weighEtcd keeps the baseline: down is believed, up only on a quiet control plane and over minutes.
func (s *server) weighEtcd(r *Reading, all *round) {
	latency := r.EtcdLatency.Seconds()
	if s.etcd == 0 {
		s.etcd = latency
	}
	s.etcd += (latency - s.etcd) * 0.5
	quiet := all.quiet && (!s.cpuKnown || s.cpu < quietCPU)
	switch {
	case s.etcdBase == 0:
		s.etcdBase = min(latency, etcdBaseMost)
	case latency < s.etcdBase:
		s.etcdBase += (latency - s.etcdBase) * 0.3
	case quiet:
		s.etcdBase += (latency - s.etcdBase) * (1 - math.Exp(-r.Over.Seconds()/120))
	}
	s.etcdBase = max(s.etcdBase, 1e-4)
	if s.etcdWell() {
		s.latency.well()
	}
}

// etcdOver is the latency that is too much. A few milliseconds more are what a busy API server measures of itself.
func (s *server) etcdOver() float64 { return max(4*s.etcdBase, s.etcdBase+0.050) }

func (s *server) etcdWell() bool { return s.etcd < s.etcdOver()/2 }

// wellCPU is the pressure of the processors below which they are not short.
func (s *server) wellCPU(c *Config) float64 { return riseCPU(c) / fallCPU(c) }

// over is by how much the limit has to fall; 1 is not at all.
func (s *server) over(now time.Time, r *Reading, all *round) float64 {
	if s.settle.pending || r.At.Add(-r.Over).Before(s.settle.effect.Add(-r.Over/4)) {
		return 1 // what it tells is, in good part, what was so before
	}
	factor := 1.0
	if s.cpuKnown && r.Over > 0 {
		slow, known := all.window.slowness()
		full := known && slow > slowWell && r.CPU/r.CPUBound >= fullCPU
		switch {
		case full && slow > slowOver:
			factor = max(0.4, slowWell/slow)
		case s.cpu >= fallCPU(all.config):
			factor = max(0.7, all.config.CPU/s.cpu)
		}
	}
	if s.memory.growing && s.memory.tight {
		factor = min(factor, 0.7)
	}
	if factor < 1 {
		return factor
	}
	// What is not the gate's doing does not go away by fewer seats: no further than half of where the limit began.
	least := all.config.Initial / 2 / float64(max(1, all.serving))
	if s.seats <= least {
		return 1
	}
	switch {
	case s.pressures[Leader] >= 1:
		factor = 0.7
	case s.pressures[Etcd] >= 1 && s.latency.mayFall(now, s.etcd):
		factor = max(0.6, 1/s.pressures[Etcd])
	default:
		return 1
	}
	return max(factor, least/s.seats)
}

func (s *server) fallTo(now time.Time, seats float64) {
	s.seats = min(s.seats, seats)
	s.fellAt = now
	s.settle.fall(now)
	// What is smoothed is of before the fall; it would make the next one.
	s.cpu = min(s.cpu, 0.85)
}

// rise adds to the limit in proportion to what is free, when it was used and nothing that is known speaks against it.
func (s *server) rise(r *Reading, all *round) {
	if s.held = ""; all.used < usedRatio || s.settle.pending || r.Over <= 0 {
		return
	}
	seconds := min(r.Over.Seconds(), 5)
	growth := slowRise * seconds
	if s.cpuKnown {
		growth = gain * (all.config.CPU - s.cpu) / all.config.CPU * seconds
		if s.cpu < quietCPU {
			growth *= quietGain / gain
		}
	}
	switch {
	case s.pressures[Leader] > 0:
		s.held = Leader
	case s.memory.tight:
		s.held = Memory
	case s.cpuKnown && s.cpu >= riseCPU(all.config):
		s.held = CPU
	case s.etcd > 0 && !s.etcdWell():
		s.held = Etcd
	case r.TooMany+r.Rejected > 1:
		s.held = Rejections
	default:
		s.held = all.held
	}
	if s.held == "" {
		s.seats += max(s.seats*min(growth*min(max(all.mean/s.seats, 0.3), 3), maxRise), 0.25*seconds)
	}
}
