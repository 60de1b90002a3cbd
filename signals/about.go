package signals

import (
	"io"
	"time"
)

// What an API server says of how it was built and set up.
const (
	buildInfo      = "kubernetes_build_info"
	featureEnabled = "kubernetes_feature_enabled"
	nominalSeats   = "apiserver_flowcontrol_nominal_limit_seats"
	storageBytes   = "apiserver_storage_size_bytes"
)

// About is what one API server says of itself.
type About struct {
	// Started is the process's start; zero when it does not say.
	Started time.Time
	// Version is its build, "v1.36.3"; "" when it does not say.
	Version string
	// Features are its feature gates and whether they are on; nil when it does not say (before Kubernetes 1.26).
	Features map[string]bool
	// Seats are the nominal concurrency limits of API Priority and Fairness by level; nil when it is off.
	Seats map[string]float64
	// StorageBytes is the size of etcd's database as the API server sees it; 0 when it does not say.
	StorageBytes float64
}

// ReadAbout reads an API server's /metrics in the Prometheus text format.
func ReadAbout(r io.Reader) (About, error) {
	families, err := parse(r, buildInfo, featureEnabled, nominalSeats, storageBytes, startSeconds)
	if err != nil {
		return About{}, err
	}
	about := About{Started: startOf(families)}
	for _, m := range families[buildInfo].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "git_version" {
				about.Version = l.GetValue()
			}
		}
	}
	if about.Version == "" {
		return About{}, &MissingError{Metric: buildInfo}
	}
	for _, m := range families[featureEnabled].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "name" {
				if about.Features == nil {
					about.Features = map[string]bool{}
				}
				about.Features[l.GetValue()] = m.GetGauge().GetValue()+m.GetUntyped().GetValue() == 1
			}
		}
	}
	for _, m := range families[nominalSeats].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "priority_level" {
				if about.Seats == nil {
					about.Seats = map[string]float64{}
				}
				about.Seats[l.GetValue()] = m.GetGauge().GetValue() + m.GetUntyped().GetValue()
			}
		}
	}
	// Several etcd clusters (--etcd-servers-overrides) have a line each.
	about.StorageBytes = sum(families[storageBytes], nil)
	return about, nil
}
