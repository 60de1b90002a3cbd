package survive

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream"
)

// Serve answers a read from what was kept, while every API server is gone and to whoever was granted it. It returns false,
// with nothing written and done not called, for everything else; otherwise done is called once, when the answer has ended.
func (s *Store) Serve(w http.ResponseWriter, r *http.Request, f *flow.Request, done func(upstream.Result)) bool {
	if !s.Gone() {
		return false
	}
	name, k := s.of(f)
	if k == nil || f.Subresource != "" || f.Upgrade || r.Method != http.MethodGet || identity.CarriesImpersonation(r.Header) ||
		f.Verb != "get" && f.Verb != "list" && f.Verb != "watch" {
		return s.leave(leftOther)
	}
	if f.Caller.Certainty != flow.CertificateVerified && f.Caller.Certainty != flow.TokenVerified {
		return s.leave(leftUnverified)
	}
	state := k.snapshot()
	if state == nil {
		return s.leave(leftEmpty)
	}
	q, reason := parseRead(r, f, state)
	if reason != "" {
		return s.leave(reason)
	}
	who, wanted := s.grants.caller(&f.Caller), rightOf(f)
	if q.instead {
		wanted.Verb = "list" // or else falling back to it would be of no use
	}
	now := time.Now()
	if !s.grants.has(who, wanted, now) {
		return s.leave(leftNoGrant)
	}
	s.grants.seen(who, wanted, now)

	counted := &upstream.Counted{ResponseWriter: w}
	result := upstream.Result{Code: http.StatusOK}
	defer func() {
		result.ResponseBytes = counted.Bytes
		done(result)
	}()
	served := func(answer string) { s.metrics.served.WithLabelValues(name, answer).Inc() }
	w.Header().Set("Warning", fmt.Sprintf("299 - \"seakeep: %s old\"", now.Sub(state.confirmed).Round(time.Second)))
	switch {
	case q.instead:
		served(servedNoWatch)
		result.Code = http.StatusServiceUnavailable
		upstream.WriteStatus(counted, &metav1.Status{
			Code: http.StatusServiceUnavailable, Reason: metav1.StatusReasonServiceUnavailable,
			Message: "seakeep gate: every API server is gone, so the most recent state is not to be had; list with resourceVersion=0 for the last one known.",
		})
	case f.Verb == "watch":
		served(servedWatch)
		s.hold(counted, r, f, k, state, q)
	case f.Verb == "get":
		found := state.find(f.Namespace, f.Name)
		if !state.kind.Namespaced {
			found = state.find("", f.Name)
		}
		if found == nil {
			served(servedAbsent)
			result.Code = http.StatusServiceUnavailable
			upstream.WriteStatus(counted, absent(f, now.Sub(state.confirmed)))
			return true
		}
		served(servedObject)
		result.Code = s.write(counted, q, func() (*encoded, error) {
			decoded, err := found.decode(&state.kind)
			if err != nil {
				return nil, err
			}
			body, err := single(&state.kind, q.media, decoded)
			return &encoded{body: body}, err
		})
	default:
		served(servedList)
		result.Code = s.write(counted, q, func() (*encoded, error) {
			key := answerKey{
				resource: name, namespace: f.Namespace, labels: f.LabelSelector, fields: f.FieldSelector,
				version: state.version, media: q.media, gzip: q.gzip,
			}
			return s.answers.get(key, func() ([]byte, error) {
				selected := make([]*object, 0, len(state.objects))
				for _, o := range state.objects {
					if q.matches(o) {
						selected = append(selected, o)
					}
				}
				return list(&state.kind, q.media, state.version, selected)
			})
		})
	}
	return true
}

func (s *Store) leave(reason string) bool {
	s.metrics.left.WithLabelValues(reason).Inc()
	return false
}

// absent is never a 404: what was not known at that time may exist, and who believed otherwise might delete.
func absent(f *flow.Request, age time.Duration) *metav1.Status {
	return &metav1.Status{
		Code: http.StatusServiceUnavailable, Reason: metav1.StatusReasonServiceUnavailable,
		Message: fmt.Sprintf("seakeep gate: every API server is gone, and %s %q was not known %s ago; whether it exists now nobody can say.",
			f.Resource, f.Name, age.Round(time.Second)),
		Details: &metav1.StatusDetails{Name: f.Name, Group: f.APIGroup, Kind: f.Resource, RetryAfterSeconds: int32(5 + rand.IntN(10))},
	}
}

func (s *Store) write(w http.ResponseWriter, q *read, encode func() (*encoded, error)) (code int) {
	answer, err := encode()
	if err != nil {
		s.log.Error("Cannot write what was kept", "reason", err)
		upstream.WriteStatus(w, &metav1.Status{
			Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError,
			Message: "seakeep gate: every API server is gone, and what was kept cannot be written in this form.",
		})
		return http.StatusInternalServerError
	}
	header := w.Header()
	header.Set("Content-Type", q.media.contentType())
	header.Set("Cache-Control", "no-cache, private")
	header.Set("Content-Length", strconv.Itoa(len(answer.body)))
	if answer.gzipped {
		header.Set("Content-Encoding", "gzip")
		header.Add("Vary", "Accept-Encoding")
	}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(answer.body) // the client may be gone; nothing else is to be done about it
	return http.StatusOK
}
