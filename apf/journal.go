package apf

import (
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/internal/statefile"
)

// Journal keeps on disk what edited levels were, one file for each cluster. The annotations on the levels say the same; this is
// for when somebody has stripped them.
type Journal struct{ file *statefile.File }

// journalled is the file's content.
type journalled struct {
	Levels map[string]Original `json:"levels"`
}

const journalVersion = 1

// OpenJournal opens the cluster's journal in the folder, which is made if absent. A cluster is known by the UID of its
// namespace kube-system, so that a kubeconfig that was pointed elsewhere restores nothing there.
func OpenJournal(dir string, cluster types.UID) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the journal: %w", err)
	}
	return &Journal{file: statefile.New(dir, "apf-"+string(cluster), journalVersion)}, nil
}

// Load returns what was edited, nothing when nothing was.
func (j *Journal) Load() (map[string]Original, error) {
	if j == nil {
		return nil, nil
	}
	var content journalled
	if _, err := j.file.Load(&content); err != nil && !errors.Is(err, statefile.ErrNone) {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	return content.Levels, nil
}

// Save returns when what it is given is on disk.
func (j *Journal) Save(levels map[string]Original) error {
	if j == nil {
		return nil
	}
	return j.file.Save(journalled{Levels: levels})
}
