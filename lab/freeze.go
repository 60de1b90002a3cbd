package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// frozenFile describes a frozen lab, in its folder.
const frozenFile = "frozen.json"

// frozen is the content of frozenFile. The members' peer ports and the kubelet's port are part of etcd's data.
type frozen struct {
	Version     int   `json:"version"`
	PeerPorts   []int `json:"peerPorts"`
	KubeletPort int   `json:"kubeletPort"`
	Nodes       int   `json:"nodes"`
	Pods        int   `json:"pods"`
}

// UpPopulated is Up and Populate; with a folder it starts from the frozen lab there, which it makes first when there is none. On
// an error nothing of it runs any more.
func UpPopulated(ctx context.Context, o Options, frozen string) (*Lab, error) {
	if frozen != "" {
		if _, err := os.Stat(frozen); err == nil {
			o.Restore = frozen
		}
	}
	l, err := Up(ctx, o)
	if err != nil {
		return nil, err
	}
	err = l.Populate(ctx)
	if err == nil && (frozen == "" || o.Restore != "") {
		return l, nil
	}
	if err == nil {
		err = l.Freeze(ctx, frozen)
	}
	if err = errors.Join(err, l.Down(context.WithoutCancel(ctx))); err != nil {
		return nil, err
	}
	return UpPopulated(ctx, o, frozen)
}

// Freeze stops the lab and copies its etcd data and PKI to dir, so that labs with Options.Restore start from there in
// seconds, as often as wanted. dir must not exist or be empty. After Freeze only Down is useful.
func (l *Lab) Freeze(ctx context.Context, dir string) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("freezing: %s is not empty", dir)
	}
	if p, ok := l.Process(KindKWOK); ok {
		if err := p.Stop(ctx); err != nil {
			return fmt.Errorf("freezing: %w", err)
		}
	}
	// KWOK has a new holder identity each time it starts and would wait until the leases of the last one expire.
	err := l.client.CoordinationV1().Leases("kube-node-lease").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("freezing: releasing node leases: %w", err)
	}
	if err := l.stopAll(ctx); err != nil {
		return fmt.Errorf("freezing: %w", err)
	}
	f := frozen{Version: 1, KubeletPort: l.kubeletPort, Nodes: l.options.Nodes, Pods: l.options.Pods}
	for i, m := range l.members {
		f.PeerPorts = append(f.PeerPorts, m.peerPort)
		if err := copyFolder(filepath.Join(dir, instance(KindEtcd, i)), l.etcdDir(i)); err != nil {
			return fmt.Errorf("freezing: %w", err)
		}
	}
	if err := copyFolder(filepath.Join(dir, "pki"), l.pki.Dir); err != nil {
		return fmt.Errorf("freezing: %w", err)
	}
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("freezing: encoding: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, frozenFile), data, 0o600); err != nil {
		return fmt.Errorf("freezing: %w", err)
	}
	return nil
}

// thaw copies a frozen lab into this one's folder and plans the same members.
func (l *Lab) thaw(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, frozenFile))
	if err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	var f frozen
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("restoring: parsing %s: %w", frozenFile, err)
	}
	if f.Version != 1 || len(f.PeerPorts) == 0 || len(f.PeerPorts) > 3 {
		return fmt.Errorf("restoring: %s has version %d and %d members, want version 1 and 1 or 3 members", frozenFile, f.Version, len(f.PeerPorts))
	}
	l.restored = true
	l.options.Etcd, l.options.Nodes, l.options.Pods = len(f.PeerPorts), f.Nodes, f.Pods
	if err := copyFolder(filepath.Join(l.options.Dir, "pki"), filepath.Join(dir, "pki")); err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	if l.pki, err = loadPKI(filepath.Join(l.options.Dir, "pki")); err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	for i, peer := range f.PeerPorts {
		m := member{name: instance(KindEtcd, i), peerPort: peer}
		if err := l.ports.claim(peer); err != nil {
			if len(f.PeerPorts) > 1 {
				return fmt.Errorf("restoring: etcd member %s: %w, and its cluster knows it by that port", m.name, err)
			}
			// One member alone needs no peer to find it.
			if m.peerPort, err = l.ports.next(); err != nil {
				return err
			}
		}
		for _, port := range []*int{&m.clientPort, &m.metricsPort} {
			if *port, err = l.ports.next(); err != nil {
				return err
			}
		}
		if err := copyFolder(l.etcdDir(i), filepath.Join(dir, instance(KindEtcd, i))); err != nil {
			return fmt.Errorf("restoring: %w", err)
		}
		l.members = append(l.members, m)
	}
	if err := l.ports.claim(f.KubeletPort); err != nil {
		return fmt.Errorf("restoring: the nodes' kubelet port: %w", err)
	}
	l.kubeletPort = f.KubeletPort
	return nil
}

// copyFolder copies a folder of regular files; to must not exist.
func copyFolder(to, from string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return errors.Join(fmt.Errorf("copying %s: %w", from, err), os.RemoveAll(to))
	}
	return restrict(to)
}

// restrict takes group and others' rights from a copy: os.CopyFS gives all files mode 0666 before the mask, and etcd
// refuses a data folder that others may read.
func restrict(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o600)
		if entry.IsDir() {
			mode = 0o700
		}
		return os.Chmod(path, mode)
	})
}
