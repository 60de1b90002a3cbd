package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
)

// ErrNoLab is returned when a folder has no running lab.
var ErrNoLab = errors.New("no lab runs")

// Status is what can be seen of a folder's lab from outside of its owner.
type Status struct {
	Dir             string          `json:"dir"`
	Owner           int             `json:"owner"` // process id; 0 if the owner is gone
	Ready           bool            `json:"ready"` // every component runs and the population is complete
	Server          string          `json:"server"`
	CAFile          string          `json:"caFile"`
	Nodes           int             `json:"nodes"`
	Pods            int             `json:"pods"`
	BoundsMechanism string          `json:"boundsMechanism"`
	Processes       []ProcessStatus `json:"processes"`
}

// ProcessStatus is one running process of a lab; its CPU time is of this life only.
type ProcessStatus struct {
	Name        string  `json:"name"`
	PID         int     `json:"pid"`
	CPUSeconds  float64 `json:"cpuSeconds"`
	RSSBytes    int64   `json:"rssBytes"`
	MaxRSSBytes int64   `json:"maxRSSBytes"`
}

// ReadStatus looks at the lab of a folder. ErrNoLab means that neither its owner nor any of its processes runs.
func ReadStatus(dir string) (Status, error) {
	s, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, fmt.Errorf("%w in %s", ErrNoLab, dir)
	}
	if err != nil {
		return Status{}, err
	}
	status := Status{
		Dir: dir, Ready: s.Ready && s.Populated, Server: s.Server, CAFile: s.CAFile,
		Nodes: s.Nodes, Pods: s.Pods, BoundsMechanism: s.Bounds, Processes: []ProcessStatus{},
	}
	if s.ownerAlive() {
		status.Owner = s.Owner.PID
	}
	for _, p := range s.alive() {
		ps := ProcessStatus{Name: p.Name, PID: p.PID}
		if stat, err := readStat(p.PID); err == nil {
			ps.CPUSeconds = stat.cpuSeconds
		}
		ps.RSSBytes, ps.MaxRSSBytes = readMemory(p.PID)
		status.Processes = append(status.Processes, ps)
	}
	if status.Owner == 0 && len(status.Processes) == 0 {
		return Status{}, fmt.Errorf("%w in %s", ErrNoLab, dir)
	}
	return status, nil
}

// Kubeconfig returns a kubeconfig for the lab of a folder, whoever owns it. Empty server and caFile mean what the
// cluster's own clients talk to: the front door if there is one, else the first API server.
func Kubeconfig(dir string, id Identity, server, caFile string) ([]byte, error) {
	s, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoLab, dir)
	}
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("finding the lab's folder: %w", err)
	}
	p, err := loadPKI(filepath.Join(dir, "pki"))
	if err != nil {
		return nil, err
	}
	if server == "" {
		server, caFile = s.Server, s.CAFile
	}
	if caFile == "" {
		caFile = p.ClusterCA
	}
	if server == "" {
		return nil, fmt.Errorf("%w in %s: its API server is not up yet", ErrNoLab, dir)
	}
	config, err := p.kubeconfig(id, server, caFile)
	if err != nil {
		return nil, err
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encoding kubeconfig: %w", err)
	}
	return data, nil
}
