package budget

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Bounds on one reading: what others wrote must not take the gate's memory. A page of 250 workloads takes a megabyte or two.
const (
	pageSize        = 250
	maxPage         = 64 << 20
	maxPages        = 400
	maxDeclarations = 20_000
	requestTimeout  = 20 * time.Second
	maxMetricsLine  = 1 << 20
)

// workloads are the kinds whose pod template says whose budget they declare.
var workloads = []struct{ kind, path string }{
	{"DaemonSet", "/apis/apps/v1/daemonsets"},
	{"Deployment", "/apis/apps/v1/deployments"},
	{"StatefulSet", "/apis/apps/v1/statefulsets"},
}

// partial asks for the metadata alone.
const partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

// item is the part of an object that is read.
type item struct {
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Template struct {
			Spec struct {
				ServiceAccountName string `json:"serviceAccountName"`
			} `json:"spec"`
		} `json:"template"`
		ServiceAccountName string   `json:"serviceAccountName"` // a pod's
		Selector           selector `json:"selector"`           // a Service's
		Service            service  `json:"service"`            // an APIService's
	} `json:"spec"`
	Webhooks []struct {
		ClientConfig struct {
			Service service `json:"service"`
		} `json:"clientConfig"`
	} `json:"webhooks"`
}

// selector is a Service's. A workload's has another form, and is not read.
type selector struct{ labels map[string]string }

// UnmarshalJSON implements json.Unmarshaler.
func (s *selector) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &s.labels); err != nil {
		s.labels = nil
	}
	return nil
}

// String is the selector as a query says it.
func (s selector) String() string { return labels.Set(s.labels).String() }

type page struct {
	Metadata metav1.ListMeta `json:"metadata"`
	Items    []item          `json:"items"`
}

// reader asks the API servers. Each request has a time limit of its own.
type reader struct{ upstream http.RoundTripper }

// declarations reads every declaration there is.
func (r *reader) declarations(ctx context.Context) ([]Declaration, error) {
	var found []Declaration
	add := func(kind string, items []item) error {
		for _, it := range items {
			text, ok := it.Metadata.Annotations[v1alpha1.APIBudgetAnnotation]
			if !ok {
				continue
			}
			if len(found) >= maxDeclarations {
				return fmt.Errorf("more than %d declarations", maxDeclarations)
			}
			account := it.Metadata.Name
			if kind != kindAccount {
				account = cmp.Or(it.Spec.Template.Spec.ServiceAccountName, "default")
			}
			found = append(found, declare(it.Metadata.Namespace+"/"+account, kind, it.Metadata.Name, text))
		}
		return nil
	}
	if err := r.list(ctx, "/api/v1/serviceaccounts", partial, func(items []item) error { return add(kindAccount, items) }); err != nil {
		return nil, err
	}
	for _, w := range workloads {
		if err := r.list(ctx, w.path, "application/json", func(items []item) error { return add(w.kind, items) }); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(found, func(a, b Declaration) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return found, nil
}

// list reads a collection page by page.
func (r *reader) list(ctx context.Context, path, accept string, each func([]item) error) error {
	next := ""
	for range maxPages {
		query := url.Values{"limit": {strconv.Itoa(pageSize)}}
		if next != "" {
			query.Set("continue", next)
		}
		p, err := r.page(ctx, path, accept, query)
		if err != nil {
			return err
		}
		if err := each(p.Items); err != nil {
			return fmt.Errorf("listing %s: %w", path, err)
		}
		if next = p.Metadata.Continue; next == "" {
			return nil
		}
	}
	return fmt.Errorf("listing %s: more than %d pages", path, maxPages)
}

func (r *reader) page(ctx context.Context, path, accept string, query url.Values) (*page, error) {
	p := &page{}
	err := r.get(ctx, path+"?"+query.Encode(), accept, func(body io.Reader) error {
		return json.NewDecoder(io.LimitReader(body, maxPage)).Decode(p)
	})
	return p, err
}

// nodes counts the nodes without reading them.
func (r *reader) nodes(ctx context.Context) (int, error) {
	p, err := r.page(ctx, "/api/v1/nodes", partial, url.Values{"limit": {"1"}})
	if err != nil {
		return 0, err
	}
	n := len(p.Items)
	if left := p.Metadata.RemainingItemCount; left != nil {
		n += int(max(0, min(*left, math.MaxInt32)))
	}
	return n, nil
}

// processors is how many processors the API server that answers uses.
func (r *reader) processors(ctx context.Context) (int, error) {
	n := 0
	err := r.get(ctx, "/metrics", "text/plain", func(body io.Reader) error {
		lines := bufio.NewScanner(body)
		lines.Buffer(make([]byte, 64<<10), maxMetricsLine)
		for lines.Scan() {
			value, ok := strings.CutPrefix(lines.Text(), "go_sched_gomaxprocs_threads ")
			if !ok {
				continue
			}
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil || !(f >= 1 && f <= 4096) {
				return fmt.Errorf("go_sched_gomaxprocs_threads must be between 1 and 4096, got %q", value)
			}
			n = int(f)
			return nil
		}
		if err := lines.Err(); err != nil {
			return err
		}
		return errors.New("they do not say go_sched_gomaxprocs_threads")
	})
	return n, err
}

func (r *reader) get(ctx context.Context, target, accept string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	path, _, _ := strings.Cut(target, "?")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("User-Agent", "seakeep-gate")
	response, err := r.upstream.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return &RefusedError{Path: path, Code: response.StatusCode}
	}
	if err := read(response.Body); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// RefusedError says that an API server answered and did not give what was asked for.
type RefusedError struct {
	Path string
	Code int
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("reading %s: it answered %d", e.Path, e.Code)
}
