package relay

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/gate/relay/frame"
	"github.com/seakeep/seakeep/gate/upstream"
)

// learned notes the version of an answer.
func (r *Relay) learned(e *entry, b *batch, version uint64) {
	r.mu.Lock()
	backwards := e.commit.Learned(b, version)
	r.mu.Unlock()
	if backwards {
		r.void(e.resource, version)
	}
}

// void forgets everything held of a resource: its versions ran backwards, which is what an etcd restored from a backup
// looks like, and what is held is of a history that did not happen.
func (r *Relay) void(resource schema.GroupResource, version uint64) {
	r.mu.Lock()
	for _, e := range r.entries {
		if e.resource == resource && e.commit.Served() > version {
			e.drop()
			e.commit.Reset()
		}
	}
	r.mu.Unlock()
	r.metrics.flushes.Inc()
	r.log.Warn("Resource versions ran backwards, as after a restore of etcd; forgetting what was read before", "resource", resource.String(), "version", version)
	r.hub.Flush(resource.Group, resource.Resource)
}

// doubtAgain is how long after a look at whether versions ran backwards the next may be taken.
const doubtAgain = 5 * time.Second

// suspect is called when an API server would not answer for a version that another one had (504, "Too large resource
// version"). It lags; or etcd was restored from a backup, and nobody may ever have that version again. One most recent read
// of a single object tells.
func (r *Relay) suspect(e *entry) {
	r.mu.Lock()
	served, again := e.commit.Served(), time.Since(e.doubted) > doubtAgain
	if again {
		e.doubted = time.Now()
	}
	r.mu.Unlock()
	if !again {
		return
	}
	r.reading.Go(func() {
		ctx, cancel := context.WithTimeoutCause(r.ctx, r.patience, upstream.ErrNoAnswer)
		defer cancel()
		version, err := r.latest(ctx, e.key.path)
		switch {
		case err != nil:
			r.log.Warn("Finding out whether resource versions ran backwards", "path", e.key.path, "reason", err)
		case version < served:
			r.void(e.resource, version)
		}
	})
}

// latest is the most recent version of a collection.
func (r *Relay) latest(ctx context.Context, path string) (uint64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://api"+path+"?limit=1", nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("User-Agent", userAgent)
	request.Header.Set("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json")
	response, err := r.upstream.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }() // read as far as needed
	head, err := io.ReadAll(io.LimitReader(response.Body, frame.HeadBytes))
	if err != nil {
		return 0, err
	}
	version, ok, _ := frame.ListVersion(response.Header.Get("Content-Type"), false, head)
	if !ok {
		return 0, &noVersion{code: response.StatusCode}
	}
	return version, nil
}

// noVersion is an answer without a version.
type noVersion struct{ code int }

// Error implements error.
func (e *noVersion) Error() string {
	return "the API server answered " + strconv.Itoa(e.code) + " and no version"
}
