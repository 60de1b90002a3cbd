package breakglass

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/seakeep/seakeep/gate/flow"
)

// How the lane squeezes the standard one.
const (
	// squeezeFor is what one call asks for. Short: a lane that dies must not leave the standard lane squeezed.
	squeezeFor = 5 * time.Second
	// squeezeEvery is how often the call is renewed while a request still waits, and the most often it is made.
	squeezeEvery = 2 * time.Second
	// squeezeTimeout bounds one call; nobody waits for it but the next call.
	squeezeTimeout = time.Second
	// squeezePatience is how long one request may squeeze. What takes longer is slow by itself (a webhook, a huge
	// list), and the standard lane gains nothing by standing still for it.
	squeezePatience = 30 * time.Second
	// squeezeHold is how long an episode outlives the last request on the lane. Without it the storm is back as soon as
	// the slow request has its answer, and an engineer's every third command waits for the next squeeze to bite.
	squeezeHold = 10 * time.Second
	// squeezeLongest ends an episode all the same; a request that is slow then begins the next one. It keeps somebody
	// who polls over this lane from squeezing everyone else for good.
	squeezeLongest = 10 * time.Minute
)

// errRejected says a gate was reached and did not agree.
var errRejected = errors.New("the gate did not accept the call")

// squeezer asks the standard gates to make way while a break-glass request waits for the API server's answer. It never
// delays a request and needs no gate to be alive.
type squeezer struct {
	gates   []string
	after   time.Duration
	log     *slog.Logger
	metrics *metrics
	// post makes one call to one gate.
	post func(ctx context.Context, socket string, body []byte) error
	// begun is told the reason when an episode begins, with how many gates heard it.
	begun func(reason string, heard, gates int)

	wake chan struct{}

	mu       sync.Mutex
	waiting  map[*ticket]struct{}
	lastUsed time.Time // when the last request came
}

// ticket is one request that has waited too long.
type ticket struct {
	since  time.Time
	reason string
}

func newSqueezer(gates []string, after time.Duration, log *slog.Logger, m *metrics, begun func(string, int, int)) *squeezer {
	return &squeezer{
		gates: gates, after: after, log: log, metrics: m, post: postSqueeze, begun: begun,
		wake: make(chan struct{}, 1), waiting: make(map[*ticket]struct{}),
	}
}

// watch starts the patience of one request; the function returned is to be called when the API server's answer begins
// or the request ends, at least once.
func (s *squeezer) watch(f *flow.Request) (answered func()) {
	if len(s.gates) == 0 || servedByKubelet(f) {
		return func() {}
	}
	t := &ticket{reason: oneLine(fmt.Sprintf("break-glass %s: %s %s waits for the API server", f.Caller.User, f.Verb, f.ResourcePath()))}
	s.mu.Lock()
	s.lastUsed = time.Now()
	s.mu.Unlock()
	ended := false // under s.mu: the timer may fire while the request ends
	timer := time.AfterFunc(s.after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if ended {
			return
		}
		t.since = time.Now()
		s.waiting[t] = struct{}{}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	})
	return func() {
		timer.Stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		ended = true
		delete(s.waiting, t)
	}
}

// oneLine is what a gate takes as a reason: one line of bounded length. Names and paths are the client's words.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	const most = 400 // the gate's bound is 500 bytes
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// servedByKubelet requests are answered by a node, a pod or a service behind the API server: a log that stays silent
// is not an API server that is slow.
func servedByKubelet(f *flow.Request) bool {
	switch f.Subresource {
	case "exec", "attach", "portforward", "proxy", "log":
		return true
	}
	return f.Verb == "proxy"
}

// reason returns why to squeeze now, "" for no reason. began is when the episode began, zero before there is one.
func (s *squeezer) reason(began time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var oldest *ticket
	for t := range s.waiting {
		if now.Sub(t.since) < squeezePatience && (oldest == nil || t.since.Before(oldest.since)) {
			oldest = t
		}
	}
	switch {
	case oldest != nil:
		return oldest.reason
	case began.IsZero() || now.Sub(began) >= squeezeLongest || now.Sub(s.lastUsed) >= squeezeHold:
		return ""
	}
	return "break-glass is in use and was slow"
}

// run makes the calls until the context ends.
func (s *squeezer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		for began := (time.Time{}); ; {
			reason := s.reason(began)
			if reason == "" {
				break
			}
			heard := s.squeeze(ctx, reason)
			if began.IsZero() {
				began = time.Now()
				s.log.Warn("Squeezing the standard lane", "reason", reason, "gatesReached", heard, "gates", len(s.gates))
				s.begun(reason, heard, len(s.gates))
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(squeezeEvery):
			}
		}
	}
}

// squeeze calls every gate at once and returns how many agreed.
func (s *squeezer) squeeze(ctx context.Context, reason string) int {
	body, err := json.Marshal(map[string]string{"for": squeezeFor.String(), "reason": reason})
	if err != nil {
		panic("BUG: encoding two strings: " + err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, squeezeTimeout)
	defer cancel()
	results := make(chan error, len(s.gates))
	for _, socket := range s.gates {
		go func() { results <- s.post(ctx, socket, body) }()
	}
	heard := 0
	for range s.gates {
		err := <-results
		switch {
		case err == nil:
			heard++
			s.metrics.squeezes.WithLabelValues(squeezeAcknowledged).Inc()
		case errors.Is(err, errRejected):
			s.metrics.squeezes.WithLabelValues(squeezeRejected).Inc()
			s.log.Debug("A standard gate does not make way", "reason", err)
		default:
			s.metrics.squeezes.WithLabelValues(squeezeUnreachable).Inc()
			s.log.Debug("A standard gate was not reached", "reason", err)
		}
	}
	return heard
}

// postSqueeze makes one call over a fresh connection: a kept one could be to a gate that has died since.
func postSqueeze(ctx context.Context, socket string, body []byte) error {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gate/v1/squeeze", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("calling gate %s: %w", socket, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("calling gate %s: %w", socket, err)
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 512)) // best effort: it only explains the code
		return fmt.Errorf("%w: %s answered %s: %s", errRejected, socket, response.Status, bytes.TrimSpace(text))
	}
	return nil
}
