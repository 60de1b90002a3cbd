package access

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

const (
	// servicesEvery is how often it is read who serves which API group.
	servicesEvery = time.Minute
	// servicesAgain is how soon it is tried again when that fails.
	servicesAgain = 5 * time.Second
	// servicesFor is how long that is believed when it cannot be read again: then only what is compiled into the API
	// server is taken for its own.
	servicesFor = 10 * time.Minute
	// servicesSize bounds what is read: a cluster with a thousand API groups has about 2 MB.
	servicesSize = 32 << 20
)

// services is who serves which API group and version: true for the API server itself.
type services struct {
	local map[schema.GroupVersion]bool
	read  time.Time
}

// Local says whether the API server answers requests of the group and version itself. It is false for what an aggregated
// API server answers, and for what is not known. Before anything is known it asks, for 3 s at most.
func (a *Access) Local(ctx context.Context, group, version string) bool {
	gv := schema.GroupVersion{Group: group, Version: version}
	known := a.services.Load()
	if known == nil {
		known = a.firstServices(ctx)
	}
	if known == nil || time.Since(known.read) > servicesFor {
		return scheme.Scheme.IsVersionRegistered(gv)
	}
	return known.local[gv]
}

// firstServices reads who serves what for the first time, once for everyone who asks meanwhile.
func (a *Access) firstServices(ctx context.Context) *services {
	first := a.lookup.DoChan("", func() (any, error) {
		if known := a.services.Load(); known != nil {
			return known, nil
		}
		known, err := a.readServices(context.Background())
		if err != nil {
			a.log.Debug("Cannot list API services yet", "reason", err)
			return (*services)(nil), nil
		}
		a.services.Store(known)
		return known, nil
	})
	select {
	case got := <-first:
		return got.Val.(*services)
	case <-ctx.Done():
		return nil
	}
}

// refreshServices reads them again each minute, give or take, until the context ends.
func (a *Access) refreshServices(ctx context.Context) {
	failing := false
	for {
		wait := servicesEvery*3/4 + rand.N(servicesEvery/2)
		known, err := a.readServices(ctx)
		switch {
		case err == nil:
			a.services.Store(known)
			failing = false
		case ctx.Err() == nil:
			wait = servicesAgain/2 + rand.N(servicesAgain)
			if !failing {
				a.log.Warn("Cannot list API services; who serves which API group is taken as it was read last", "reason", err, "for", servicesFor)
			}
			failing = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// apiServices is what is read of a LIST of APIServices (apiregistration.k8s.io/v1).
type apiServices struct {
	Items []struct {
		Spec struct {
			Group   string           `json:"group"`
			Version string           `json:"version"`
			Service *json.RawMessage `json:"service"`
		} `json:"spec"`
	} `json:"items"`
}

func (a *Access) readServices(ctx context.Context) (known *services, err error) {
	err = a.ask(ctx, a.listing, kindServices, func(ctx context.Context, _ *answer) (string, error) {
		if known, err = a.listServices(ctx); err != nil {
			return resultFailed, err
		}
		return resultYes, nil
	})
	return known, err
}

func (a *Access) listServices(ctx context.Context) (*services, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://upstream.invalid/apis/apiregistration.k8s.io/v1/apiservices", nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	began := time.Now()
	response, err := a.upstream.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("listing API services: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("listing API services: the API server answered %s", response.Status)
	}
	var list apiServices
	if err := json.NewDecoder(io.LimitReader(response.Body, servicesSize)).Decode(&list); err != nil {
		return nil, fmt.Errorf("reading the list of API services: %w", err)
	}
	known := &services{local: make(map[schema.GroupVersion]bool, len(list.Items)), read: began}
	for _, item := range list.Items {
		known.local[schema.GroupVersion{Group: item.Spec.Group, Version: item.Spec.Version}] = item.Spec.Service == nil
	}
	return known, nil
}
