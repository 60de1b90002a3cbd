package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// hits is LISTs with resourceVersion=0, one after the other: the API server answers them from its cache, and encodes and
// compresses each; the gate answers them from what it has. Beside it stands what writing the bytes costs at least.
const hits = "resourceVersion=0"

const (
	hitPath    = listPath + "?resourceVersion=0"
	hitProfile = "CPU of the gate, LISTs with resourceVersion=0"
	protobuf   = "application/vnd.kubernetes.protobuf"
)

// encoding is one way to encode an answer, and what of the API server's CPU the gate may use for it.
type encoding struct {
	accept, encoding string
	bound            float64
}

func (e encoding) name() string {
	media := "JSON"
	if e.accept == protobuf {
		media = "protobuf"
	}
	return fmt.Sprintf("%s, %s, %s", hits, media, e.encoding)
}

var encodings = []encoding{
	{"application/json", "gzip", 1.0 / 20}, {"application/json", "identity", 1.0 / 5},
	{protobuf, "gzip", 1.0 / 20}, {protobuf, "identity", 1.0 / 5},
}

func (r *rig) measureHits(ctx context.Context, report *result.Report) error {
	for _, e := range encodings {
		if !r.options.Wanted(e.name()) {
			continue
		}
		r.say("%s", e.name())
		cpu, beside, took := result.Runs{}, result.Runs{}, result.Runs{}
		note := ""
		err := run.Turns(r.options.Rounds, []string{directName, gateName, bareName}, func(contender string) error {
			got, err := r.hitTurn(ctx, e, contender, r.options.Turn/2, nil)
			if err != nil {
				return fmt.Errorf("through %s: %w", contender, err)
			}
			own := got.cpu.proxy
			switch contender {
			case directName:
				own = got.cpu.server
			case gateName:
				beside.Add(contender, got.cpu.server/float64(got.answers)*1000)
				note = fmt.Sprintf("%d answers in a turn through the gate, of %d reads of the API server; %d bytes each.", got.answers, got.reads, got.bytes)
			}
			cpu.Add(contender, own/float64(got.answers)*1000)
			took.Add(contender, got.seconds/float64(got.answers)*1000)
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", e.name(), err)
		}
		name := fmt.Sprintf("%s, %d pods", e.name(), r.pods)
		cases := []result.Case{
			cpu.Case(name, "CPU of who answers, per LIST", "ms", gateName),
			beside.Case(name, "CPU of the API server meanwhile, per LIST", "ms", gateName),
			took.Case(name, "an answer takes", "ms", gateName),
		}
		cases[0].Note = note
		if cases[0].AtMostTimes(cpu, gateName, directName, e.bound); !*cases[0].Met {
			cases[0].Profile = hitProfile + ", " + e.name()
			err := r.profile(ctx, report, cases[0].Profile, func(begun func()) error {
				_, err := r.hitTurn(ctx, e, gateName, profiled+time.Second, begun)
				return err
			})
			if err != nil {
				return err
			}
		}
		report.Cases = append(report.Cases, cases...)
	}
	return nil
}

// hitReading is what a turn came to.
type hitReading struct {
	cpu     usage
	answers int
	reads   int64 // of the API server by the gate
	bytes   int64
	seconds float64
}

// hitTurn asks again and again over one connection. What the answers are is found out once; each is the same bytes.
func (r *rig) hitTurn(ctx context.Context, e encoding, contender string, during time.Duration, begun func()) (*hitReading, error) {
	if err := r.calm(ctx); err != nil {
		return nil, err
	}
	transport := door.Transport(r.roots, false)
	defer transport.CloseIdleConnections()
	objects, err := r.count(ctx)
	if err != nil {
		return nil, err
	}
	if contender == bareName {
		if err := r.give(ctx, transport, e); err != nil {
			return nil, err
		}
	}
	known := map[uint64]bool{}
	ask := func() (int64, error) {
		body, hash, err := r.hit(ctx, transport, e, contender)
		if err == nil && !known[hash] {
			if err = holds(body, e, objects); err == nil {
				known[hash] = true
			}
		}
		return int64(len(body)), err
	}
	for range 3 { // the first one fills what the others are answered from
		if _, err := ask(); err != nil {
			return nil, err
		}
	}
	var reads int64
	if contender == gateName {
		status, err := r.status(ctx)
		if err != nil {
			return nil, err
		}
		reads = status.Total.UpstreamReads
	}
	if begun != nil {
		begun()
	}
	before, err := r.used(contender)
	if err != nil {
		return nil, err
	}
	got := &hitReading{}
	for began := time.Now(); ; got.answers++ {
		if got.seconds = time.Since(began).Seconds(); got.seconds >= during.Seconds() {
			break
		}
		if got.bytes, err = ask(); err != nil {
			return nil, err
		}
	}
	after, err := r.used(contender)
	if err != nil {
		return nil, err
	}
	got.cpu = usage{after.proxy - before.proxy, after.server - before.server}
	if contender == gateName {
		status, err := r.status(ctx)
		if err != nil {
			return nil, err
		}
		got.reads = status.Total.UpstreamReads - reads
	}
	return got, nil
}

var hitSeed = maphash.MakeSeed()

func (r *rig) hit(ctx context.Context, transport *http.Transport, e encoding, contender string) (body []byte, hash uint64, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.urls[contender]+hitPath, nil)
	if err != nil {
		return nil, 0, err
	}
	request.Header.Set("Authorization", "Bearer "+r.tokens[0])
	request.Header.Set("Accept", e.accept)
	request.Header.Set("Accept-Encoding", e.encoding)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	r.buffer.Reset()
	if _, err := r.buffer.ReadFrom(response.Body); err != nil {
		return nil, 0, err
	}
	if response.StatusCode != http.StatusOK || (response.Header.Get("Content-Encoding") == "gzip") != (e.encoding == "gzip") {
		return nil, 0, fmt.Errorf("the answer is %s, encoded %q", response.Status, response.Header.Get("Content-Encoding"))
	}
	return r.buffer.Bytes(), maphash.Bytes(hitSeed, r.buffer.Bytes()), nil
}

// holds says whether a body is a list of so many pods.
func holds(body []byte, e encoding, objects int) error {
	if e.encoding == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("unpacking an answer: %w", err)
		}
		if body, err = io.ReadAll(z); err != nil {
			return fmt.Errorf("unpacking an answer: %w", err)
		}
	}
	list := &corev1.PodList{}
	if _, _, err := serializer.NewCodecFactory(scheme.Scheme).UniversalDeserializer().Decode(body, nil, list); err != nil {
		return fmt.Errorf("decoding an answer: %w", err)
	}
	if len(list.Items) != objects {
		return fmt.Errorf("an answer has %d pods instead of %d", len(list.Items), objects)
	}
	return nil
}
