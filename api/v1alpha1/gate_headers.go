package v1alpha1

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// RequestHeaders are the names under which the API server takes the front proxy's word, as its --requestheader-* flags
// say. Write them out when those flags differ from kubeadm's: a name that the API server reads and that is not listed
// here is not taken off a client's request, and the client could be anyone.
// `kubectl -n kube-system get configmap extension-apiserver-authentication -o yaml` shows the flags of a running one.
type RequestHeaders struct {
	// Usernames is --requestheader-username-headers, in its order; the first is the one sent. Default X-Remote-User.
	Usernames []string `json:"usernames,omitempty"`
	// UIDs is --requestheader-uid-headers. Default X-Remote-Uid.
	UIDs []string `json:"uids,omitempty"`
	// Groups is --requestheader-group-headers. Default X-Remote-Group.
	Groups []string `json:"groups,omitempty"`
	// ExtraPrefixes is --requestheader-extra-headers-prefix. Default X-Remote-Extra-.
	ExtraPrefixes []string `json:"extraPrefixes,omitempty"`
}

func (h *RequestHeaders) setDefaults() {
	for _, list := range []struct {
		names *[]string
		usual string
	}{
		{&h.Usernames, "X-Remote-User"}, {&h.UIDs, "X-Remote-Uid"}, {&h.Groups, "X-Remote-Group"}, {&h.ExtraPrefixes, "X-Remote-Extra-"},
	} {
		if len(*list.names) == 0 {
			*list.names = []string{list.usual}
		}
	}
}

// WithDefaults returns the names with the usual ones where there are none.
func (h RequestHeaders) WithDefaults() RequestHeaders {
	h.setDefaults()
	return h
}

// notOurs are headers the API server reads for something else; to take them off every request would break it.
var notOurs = sets.New("accept", "authorization", "connection", "content-length", "content-type", "host", "upgrade", "user-agent")

func (h *RequestHeaders) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		field string
		names []string
	}{
		{"usernames", h.Usernames}, {"uids", h.UIDs}, {"groups", h.Groups}, {"extraPrefixes", h.ExtraPrefixes},
	} {
		for i, name := range list.names {
			lower := strings.ToLower(name)
			switch at := path.Child(list.field).Index(i); {
			case name == "" || strings.ContainsFunc(lower, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' }):
				errs = append(errs, field.Invalid(at, name, "must be a header's name of letters, digits and hyphens: servers behind the gate fold others into hyphens"))
			case notOurs.Has(lower) || strings.HasPrefix(lower, "impersonate-"):
				errs = append(errs, field.Invalid(at, name, "must not be a header that requests carry for another reason: it is taken off every one"))
			}
		}
	}
	return errs
}
