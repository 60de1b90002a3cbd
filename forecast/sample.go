package forecast

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Kind is a kind of cost.
type Kind string

// The kinds of cost. All are averages over a sample's time.
const (
	// Seats is seat-seconds per second, the unit of API Priority and Fairness: requests executing at a time, by their width.
	Seats Kind = "seats"
	// Service is what Seats would be if no request waited for a processor or for another: each at the lower quartile of its like.
	// On a server that others keep busy it is the demand, and Seats is demand and waiting.
	Service Kind = "service"
	// Requests is requests per second, the openings of watches among them.
	Requests Kind = "requests"
	// Bytes is bytes per second, requests and answers together.
	Bytes Kind = "bytes"
	// Watches is how many watches are open.
	Watches Kind = "watches"
	// CPU is processors of all API servers together.
	CPU Kind = "cpu"
	// Memory is resident bytes of all API servers together.
	Memory Kind = "memory"
)

// Kinds are all kinds, in the order in which they are told.
func Kinds() []Kind { return []Kind{Seats, Service, Requests, Bytes, Watches, CPU, Memory} }

// Unit is what a kind is counted in, for people.
func (k Kind) Unit() string {
	switch k {
	case Seats, Service:
		return "seats"
	case Requests:
		return "/s"
	case Bytes:
		return "B/s"
	case CPU:
		return "cores"
	case Memory:
		return "B"
	}
	return ""
}

// Censoring says that a sample does not show what was asked for, because some of it was refused or not waited for.
type Censoring string

// Who caused the refusals. A component that earns 429s or time-outs asks for more than it gets: its demand is at least what
// was measured, and nobody knows how much more. When bystanders caused them, the sample says nothing about the component.
const (
	Whole    Censoring = ""
	ByItself Censoring = "itself"
	ByOthers Censoring = "others"
)

// Sample is what a component cost over one window of time on one cluster, while its exposure did not change.
type Sample struct {
	// Cluster is the cluster's name, Nodes how many nodes it has, Exposed how many of them ran the component.
	Cluster string `json:"cluster"`
	Nodes   int    `json:"nodes"`
	Exposed int    `json:"exposed"`
	// Objects is how many objects of what the component reads there are; 0 when it is not known.
	Objects int       `json:"objects,omitempty"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	// Cost is the component's own, told apart from everybody else's.
	Cost map[Kind]float64 `json:"cost,omitempty"`
	// Server is what the API servers took for everybody, the component included: of processors and memory there is no account
	// by client. A kind is in Cost or in Server, the same in all samples of a cluster.
	Server map[Kind]float64 `json:"server,omitempty"`
	// Startup is true when Started nodes began to run the component in this time. What a start costs is fitted apart.
	Startup bool `json:"startup,omitempty"`
	Started int  `json:"started,omitempty"`
	// Censored says that requests were refused or timed out, and because of whom.
	Censored Censoring `json:"censored,omitempty"`
}

func (s *Sample) seconds() float64 { return s.To.Sub(s.From).Seconds() }

// maxNodes bounds what is taken for a number of nodes; Kubernetes is tested to 5,000.
const maxNodes = 1_000_000

// Validate says what is wrong with a sample.
func (s *Sample) Validate() error {
	switch {
	case s.Cluster == "":
		return errors.New("cluster must not be empty")
	case s.Nodes < 1 || s.Nodes > maxNodes:
		return fmt.Errorf("nodes must be 1–%d, got %d", maxNodes, s.Nodes)
	case s.Exposed < 0 || s.Exposed > s.Nodes:
		return fmt.Errorf("exposed must be 0–%d, the cluster's nodes, got %d", s.Nodes, s.Exposed)
	case s.Objects < 0 || s.Started < 0 || s.Started > 0 && !s.Startup:
		return fmt.Errorf("objects and started must be ≥ 0, and started only of a startup: got %d and %d", s.Objects, s.Started)
	case !(s.seconds() > 0):
		return fmt.Errorf("to must be after from, got %s and %s", s.From.Format(time.RFC3339Nano), s.To.Format(time.RFC3339Nano))
	case s.Censored != Whole && s.Censored != ByItself && s.Censored != ByOthers:
		return fmt.Errorf("censored must be empty, itself or others, got %q", s.Censored)
	case len(s.Cost)+len(s.Server) == 0:
		return errors.New("cost or server must have a kind of cost")
	}
	for _, costs := range []map[Kind]float64{s.Cost, s.Server} {
		for kind, v := range costs {
			if !(v >= 0) || math.IsInf(v, 0) {
				return fmt.Errorf("%s must be a number ≥ 0, got %v", kind, v)
			}
			if _, twice := s.Server[kind]; twice && s.Cost[kind] != 0 {
				return fmt.Errorf("%s must be in cost or in server, not both", kind)
			}
		}
	}
	return nil
}

// of returns a sample's cost of a kind, and whether it is the component's own.
func (s *Sample) of(kind Kind) (v float64, own, ok bool) {
	if v, ok = s.Cost[kind]; ok {
		return v, true, true
	}
	v, ok = s.Server[kind]
	return v, false, ok
}
