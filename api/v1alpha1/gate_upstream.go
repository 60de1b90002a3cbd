package v1alpha1

import (
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// GateUpstream is one API server.
type GateUpstream struct {
	// Name is used in metrics and messages; unique.
	Name string `json:"name"`
	// URL is https://host:port.
	URL string `json:"url"`
	// CAFile verifies the API server's certificate.
	CAFile string `json:"caFile"`
	// ServerName overrides the name verified in the certificate.
	ServerName string `json:"serverName,omitempty"`
}

// GateBalance says how requests and watches are spread over several API servers. Which of them may be asked needs no
// configuration: each is probed, and what requests meet counts.
type GateBalance struct {
	// WatchesPerSecond is how many open watches this gate may end in a second so that their clients open them again at an
	// API server with fewer, after one was away. Only watches with bookmarks are, which go on where they were. Default 10,
	// 1–1000. More: a server that came back gets its part sooner, by more reconnections at a time.
	WatchesPerSecond int `json:"watchesPerSecond,omitempty"`
}

func (b *GateBalance) setDefaults() {
	if b.WatchesPerSecond == 0 {
		b.WatchesPerSecond = 10
	}
}

func (b *GateBalance) validate(path *field.Path) field.ErrorList {
	if b.WatchesPerSecond < 1 || b.WatchesPerSecond > 1000 {
		return field.ErrorList{field.Invalid(path.Child("watchesPerSecond"), b.WatchesPerSecond, "must be between 1 and 1000")}
	}
	return nil
}

func validateUpstreams(upstreams []GateUpstream, path *field.Path) field.ErrorList {
	if len(upstreams) == 0 {
		return field.ErrorList{field.Required(path, "at least one API server")}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, u := range upstreams {
		p := path.Index(i)
		errs = append(errs, required(u.Name, p.Child("name"), "used in metrics and messages")...)
		if seen.Has(u.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), u.Name))
		}
		seen.Insert(u.Name)
		parsed, err := url.Parse(u.URL)
		if err != nil || parsed.Scheme != "https" || parsed.Host == "" || strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" {
			errs = append(errs, field.Invalid(p.Child("url"), u.URL, "must be https://host:port without path or query"))
		}
		errs = append(errs, required(u.CAFile, p.Child("caFile"), "an API server is never spoken to unverified")...)
	}
	return errs
}
