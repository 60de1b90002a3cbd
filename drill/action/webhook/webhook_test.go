package webhook

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
)

func TestAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := httptest.NewRecorder()
		allow(600*time.Millisecond).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"request":{"uid":"u"}}`)))
		var review admissionv1.AdmissionReview
		if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil || review.Response == nil || !review.Response.Allowed || review.Response.UID != "u" {
			t.Errorf("answered %s (%v)", w.Body, err)
		}
		if took := time.Since(began); took != 600*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

func TestAllowRefusesWhatIsNoReview(t *testing.T) {
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "<xml/>", "no request": `{"response":{}}`, "too long": `{"request":{"uid":"` + strings.Repeat("u", maxReview) + `"}}`,
	} {
		w := httptest.NewRecorder()
		allow(0).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: answered %d", name, w.Code)
		}
	}
}
