package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// testDirPrefix begins the names of the folders of labs that Start made.
const testDirPrefix = "seakeep-lab-test-"

// shared are this test process's labs.
var shared struct {
	sync.Mutex
	labs []*sharedLab
}

type sharedLab struct {
	options Options
	once    sync.Once
	lab     *Lab
	err     error
}

// Start returns a running, populated lab for a test. Tests of one package that ask for equal options share one lab, so
// that a package's suite pays for its start once; a test that breaks things should ask for a lab of its own, by
// giving Options.Dir or FrontDoor, which is taken down when the test ends.
//
// A shared lab lives until the test process ends: its processes then end with it by their parent-death signal,
// without a TestMain, and its folder is removed by the next test process that starts one. Without the control plane's
// binaries the test fails: skipping would make the suite green without having tested anything.
func Start(t testing.TB, o Options) *Lab {
	t.Helper()
	if _, err := FindBinDir(o.BinDir); err != nil {
		t.Fatalf("%v; run 'make control-plane'", err)
	}
	if o.Dir != "" || o.FrontDoor != nil {
		if o.Dir == "" {
			o.Dir = t.TempDir()
		}
		l, err := startPopulated(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Down(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	s := share(o)
	s.once.Do(func() {
		sweepTestDirs()
		options := s.options
		if options.Dir, s.err = os.MkdirTemp("", testDirPrefix+strconv.Itoa(os.Getpid())+"-"); s.err != nil {
			return
		}
		// Not the test's context: the lab outlives the test that happens to be first.
		s.lab, s.err = startPopulated(context.Background(), options)
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.lab
}

// share finds the shared lab for the options, or plans one.
func share(o Options) *sharedLab {
	comparable := o
	comparable.Progress, comparable.Log = nil, nil
	shared.Lock()
	defer shared.Unlock()
	i := slices.IndexFunc(shared.labs, func(s *sharedLab) bool {
		other := s.options
		other.Progress, other.Log = nil, nil
		return reflect.DeepEqual(other, comparable)
	})
	if i < 0 {
		shared.labs = append(shared.labs, &sharedLab{options: o})
		i = len(shared.labs) - 1
	}
	return shared.labs[i]
}

func startPopulated(ctx context.Context, o Options) (*Lab, error) {
	// Several packages' labs start at once on a small machine.
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("the lab was not ready within 5 min"))
	defer cancel()
	l, err := Up(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("starting lab: %w", err)
	}
	if err := l.Populate(ctx); err != nil {
		return nil, errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	return l, nil
}

// sweepTestDirs removes the folders of shared labs whose test process has ended.
func sweepTestDirs() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), testDirPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		s, err := readState(dir)
		if err != nil || s.ownerAlive() {
			continue // one without state is just being made, by another test process
		}
		if _, err := CleanUp(context.Background(), dir); err == nil {
			_ = os.RemoveAll(dir)
		}
	}
}
