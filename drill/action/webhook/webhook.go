// Package webhook is the action that registers an admission webhook which takes its time: a change that makes every write slow,
// and whose own pods are well.
package webhook

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/apicall"
	"github.com/seakeep/seakeep/drill/session"
	"github.com/seakeep/seakeep/internal/pki"
)

const (
	name     = "seakeep-drill"
	base     = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
	lifetime = 24 * time.Hour
	// maxReview bounds what is read of a review: twice the largest object that an API server stores.
	maxReview = 4 << 20
)

type action struct {
	delay  time.Duration
	caller *apicall.Caller
	beside func(drill.Beside)

	mu     sync.Mutex
	server *server // nil until it is there
}

// New returns the action.
func New(spec v1alpha1.WebhookAction, env drill.Env) (drill.Action, error) {
	caller, err := session.As(env.Target, v1alpha1.AsObserver)
	return &action{delay: spec.Delay.Duration, caller: caller, beside: env.Beside}, err
}

// Do implements drill.Action: it serves, and then says so to the API server.
func (a *action) Do(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server == nil {
		s, err := serve(a.delay)
		if err != nil {
			return fmt.Errorf("serving a webhook: %w", err)
		}
		a.server = s
		a.beside(drill.Beside{Undo: a.undo})
	}
	body, err := json.Marshal(a.server.configuration())
	if err != nil {
		return err
	}
	code, answer, err := a.caller.Do(ctx, http.MethodPost, base, apicall.JSON, body)
	switch {
	case err != nil:
		return fmt.Errorf("registering a webhook: %w", err)
	case code != http.StatusCreated:
		return fmt.Errorf("registering a webhook: answered %d: %s", code, session.Message(answer))
	}
	return nil
}

// undo takes the registration away first: writes would wait for a server that is gone.
func (a *action) undo(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.caller.Close()
	code, answer, err := a.caller.Do(ctx, http.MethodDelete, base+"/"+name, "", nil)
	if err == nil && code != http.StatusOK && code != http.StatusNotFound {
		err = fmt.Errorf("answered %d: %s", code, session.Message(answer))
	}
	if err != nil {
		err = fmt.Errorf("taking the webhook away: %w", err)
	}
	return errors.Join(err, a.server.close())
}

// server answers reviews on loopback.
type server struct {
	http http.Server
	url  string
	ca   []byte
	done chan struct{}
}

func serve(delay time.Duration) (*server, error) {
	ca, err := pki.NewCA(name, lifetime)
	if err != nil {
		return nil, err
	}
	pair, err := ca.Issue(pki.Spec{CommonName: name, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: lifetime, Server: true})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{url: "https://" + listener.Addr().String(), ca: ca.CertPEM(), done: make(chan struct{})}
	s.http = http.Server{
		Handler: allow(delay), ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair.TLS()}},
	}
	go func() {
		defer close(s.done)
		_ = s.http.ServeTLS(listener, "", "")
	}()
	return s, nil
}

func (s *server) close() error {
	err := s.http.Close()
	<-s.done
	return err
}

// allow lets everything through after a while. What it answers decides nothing, and so anybody on this machine may ask.
func allow(delay time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var review admissionv1.AdmissionReview
		body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxReview))
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil || review.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-q.Context().Done():
		case <-timer.C:
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	})
}

// configuration registers the server for writes to pods and ConfigMaps. A drill that dies leaves a webhook that nobody serves: what
// is Ignored holds nothing up.
func (s *server) configuration() *admissionregistrationv1.ValidatingWebhookConfiguration {
	ignore, none, seconds := admissionregistrationv1.Ignore, admissionregistrationv1.SideEffectClassNone, int32(15)
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "drill.seakeep.dev", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &s.url, CABundle: s.ca},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.OperationAll},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps", "pods"}},
			}},
			FailurePolicy: &ignore, SideEffects: &none, TimeoutSeconds: &seconds, AdmissionReviewVersions: []string{"v1"},
		}},
	}
}
