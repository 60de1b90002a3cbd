package fence

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/lab/link"
)

func TestFenceOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	of := func(holder string) *Fence {
		return &Fence{Client: client, Namespace: "kube-system", Name: "a-fence", FieldManager: "test", Holder: holder, Length: 3 * time.Second, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	}
	held, release, err := of("one").Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	patience, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	told := ""
	if _, _, err := of("two").Acquire(patience, func(holder string) { told = holder }); !errors.Is(err, context.DeadlineExceeded) || told != "one" {
		t.Errorf("a second one gets the lease that is held by %q: %v", told, err)
	}
	if held.Err() != nil {
		t.Errorf("the first has lost it: %v", context.Cause(held))
	}
	release()
	if held.Err() == nil {
		t.Error("what is released is held")
	}

	// Somebody takes it away: whoever held it is told before anyone else can have it.
	held, release, err = of("two").Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.CoordinationV1().Leases("kube-system").Delete(t.Context(), "a-fence", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the holder knows", 3*time.Second, func() bool { return errors.Is(context.Cause(held), ErrLost) })
	release()

	// The API server stands still: the holder stops before its time is over.
	held, release, err = of("three").Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	server, _ := l.Process(lab.KindAPIServer)
	began := time.Now()
	server.Kill()
	select {
	case <-held.Done():
		if took := time.Since(began); took >= 3*time.Second || !errors.Is(context.Cause(held), ErrLost) {
			t.Errorf("lost after %v: %v", took, context.Cause(held))
		}
	case <-time.After(10 * time.Second):
		t.Error("the holder does not know")
	}
	release()
}

// A holder that was cut off has its lease back as soon as it is heard again: nobody else had it. Another one waits.
func TestCutOff(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	config := l.RESTConfig(lab.Masters)
	cut, err := link.To(strings.TrimPrefix(config.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer cut.Close()
	config.Host, config.Timeout = "https://"+cut.Address(), time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	const length = 6 * time.Second
	f := &Fence{Client: client, Namespace: "kube-system", Name: "cut-off", FieldManager: "test", Holder: "one", Length: length, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	held, release, err := f.Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	cut.Silence()
	<-held.Done()
	release()
	cut.Restore()
	began := time.Now()
	_, release, err = f.Acquire(t.Context(), nil)
	if took := time.Since(began); err != nil || took >= length {
		t.Errorf("had again after %v: %v", took, err)
	}
	defer release()
	namesake := &Fence{Client: client, Namespace: f.Namespace, Name: f.Name, FieldManager: "test", Holder: "one", Length: length, Log: f.Log}
	patience, cancel := context.WithTimeout(t.Context(), length/2)
	defer cancel()
	if _, _, err := namesake.Acquire(patience, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another one of the same name has it: %v", err)
	}
}
