package apf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func TestJailOnALab(t *testing.T) {
	r := start(t, lab.Options{})
	stock := r.specs()
	w := r.writer("one")
	inmate, other := r.user("inmate"), r.user("other")
	list := func(client *kubernetes.Clientset, within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		return err
	}
	if err := list(inmate, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	jail := Jail{User: "inmate", For: time.Hour, Reason: "INC-42"}
	if _, err := w.Jail(t.Context(), jail, true); err != nil {
		t.Fatal(err)
	}
	r.wantStock(stock) // a dry run

	jailed, err := w.Jail(t.Context(), jail, false)
	if err != nil {
		t.Fatal(err)
	}
	inJail := func(counter string) (n float64) {
		err := r.servers[0].read(t.Context(), func(body io.Reader) error {
			text, err := io.ReadAll(body)
			for line := range strings.Lines(string(text)) {
				if strings.HasPrefix(line, counter+"{") && strings.Contains(line, `priority_level="`+JailLevel+`"`) {
					var value float64
					if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &value); err != nil {
						return err
					}
					n += value
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	testkit.Within(t, "the jail is in force", 10*time.Second, func() bool { return list(inmate, 300*time.Millisecond) != nil })
	var let atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 5 {
				if list(inmate, 2*time.Second) == nil {
					let.Add(1)
				}
			}
		})
	}
	for range 20 {
		if err := list(other, 10*time.Second); err != nil {
			t.Errorf("another client: %v", err)
		}
	}
	all.Wait()
	dispatched, rejected := inJail("apiserver_flowcontrol_dispatched_requests_total"), inJail("apiserver_flowcontrol_rejected_requests_total")
	if let.Load() > 0 || dispatched > 0 || rejected < 100 {
		t.Errorf("%d requests were let out of jail; the API server says it dispatched %v and rejected %v", let.Load(), dispatched, rejected)
	}
	t.Logf("100 requests of the inmate and their retries: %v dispatched, %v rejected", dispatched, rejected)

	longer := jail
	longer.For = 2 * time.Hour
	if again, err := w.Jail(t.Context(), longer, false); err != nil || again.Name != jailed.Name {
		t.Errorf("to jail again is to jail longer: %+v, %v", again, err)
	}
	if jails := r.state().Jails; len(jails) != 1 || time.Until(jails[0].Expires) < 100*time.Minute || jails[0].Reason != "INC-42" {
		t.Errorf("jails: %+v", jails)
	}

	t.Run("verbs", func(t *testing.T) {
		if _, err := w.Jail(t.Context(), Jail{User: "other", Verbs: []string{"list"}, For: time.Hour}, false); err != nil {
			t.Fatal(err)
		}
		testkit.Within(t, "LISTs are in jail", 10*time.Second, func() bool { return list(other, 300*time.Millisecond) != nil })
		if _, err := other.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			t.Errorf("GETs are not: %v", err)
		}
	})

	t.Run("unjail", func(t *testing.T) {
		if err := w.Unjail(t.Context(), "seakeep-jail-nobody"); !errors.Is(err, ErrNoJail) {
			t.Errorf("want ErrNoJail, got %v", err)
		}
		if err := w.Unjail(t.Context(), jailed.Name); err != nil {
			t.Fatal(err)
		}
		testkit.Within(t, "the inmate is free", 10*time.Second, func() bool { return list(inmate, time.Second) == nil })
	})

	t.Run("time over", func(t *testing.T) {
		later := NewWriter(Options{Client: r.client, Holder: "later", Now: func() time.Time { return time.Now().Add(61 * time.Minute) }, Log: r.log()})
		if err := later.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantStock(stock)
		testkit.Within(t, "the other is free", 10*time.Second, func() bool { return list(other, time.Second) == nil })
	})
}
