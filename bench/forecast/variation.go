package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/seakeep/seakeep/lab/agents"
)

// variation is one component: what its agents read, how often, in which encoding.
type variation struct {
	Name     string        `json:"name"`
	Period   time.Duration `json:"period"`
	Protobuf bool          `json:"protobuf"`
	// Objects are in the namespace that its agents read, each of Bytes.
	Objects int `json:"objects"`
	Bytes   int `json:"bytes"`
	// Cached LISTs name resourceVersion 0.
	Cached bool `json:"cached"`
	Gzip   bool `json:"gzip"`
}

// most is what one variation may come to on all nodes, in seats, by estimate: beyond 60 % of the API server's processors the
// truth is cut off, and far below it already requests wait for each other, which is not the component's cost.
const most = 0.3

// variations are drawn from a seed.
func variations(n, nodes int, seed uint64) []variation {
	random := rand.New(rand.NewPCG(seed, 20241211))
	all := make([]variation, n)
	for i := range all {
		v := variation{
			Name: fmt.Sprintf("v%d", i+1), Protobuf: random.IntN(2) == 0, Objects: 20 + random.IntN(181), Bytes: 256 + random.IntN(1793),
			Cached: random.IntN(3) > 0, Gzip: random.IntN(2) == 0,
		}
		// As measured on two cores: half a millisecond, and a millisecond for 40 KB of JSON or 120 KB of protobuf.
		perMS := 40e3
		if v.Protobuf {
			perMS = 120e3
		}
		if v.Gzip && v.Objects*v.Bytes > 128<<10 {
			perMS /= 2
		}
		took := 0.7e-3 + 1e-3*float64(v.Objects*(v.Bytes+400))/perMS
		least := float64(nodes) * took / most
		v.Period = time.Duration((max(4, least) + 6*random.Float64()) * float64(time.Second)).Round(100 * time.Millisecond)
		all[i] = v
	}
	return all
}

// jitter is how much of the period is added at random.
const jitter = 0.2

// every is the mean time between two requests of an agent.
func (v variation) every() time.Duration { return v.Period + time.Duration(jitter/2*float64(v.Period)) }

// whole is about so long, and as many whole periods.
func (v variation) whole(about time.Duration) time.Duration {
	return v.every() * max(1, (about+v.every()/2)/v.every())
}

func (v variation) annotations() map[string]string {
	a := map[string]string{
		agents.AnnotationVerb: agents.VerbList, agents.AnnotationResource: "configmaps", agents.AnnotationScope: agents.ScopeNamespace,
		agents.AnnotationPeriod: v.Period.String(), agents.AnnotationJitter: fmt.Sprint(jitter), agents.AnnotationMediaType: "json", agents.AnnotationCompression: "none",
	}
	if v.Protobuf {
		a[agents.AnnotationMediaType] = "protobuf"
	}
	if v.Cached {
		a[agents.AnnotationResourceVersion] = "0"
	}
	if v.Gzip {
		a[agents.AnnotationCompression] = "gzip"
	}
	return a
}

// String tells a variation.
func (v variation) String() string {
	media, from := "JSON", "newest"
	if v.Protobuf {
		media = "protobuf"
	}
	if v.Cached {
		from = "cached"
	}
	return fmt.Sprintf("%s: %d objects of %d B each %s, %s, %s", v.Name, v.Objects, v.Bytes, v.Period, media, from)
}
