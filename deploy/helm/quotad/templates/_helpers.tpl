{{/* The name of everything: the release's, with the chart's where it is not in it already. */}}
{{- define "quotad.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{- define "quotad.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "quotad.labels" -}}
{{ include "quotad.selector" . }}
app.kubernetes.io/component: {{ .Values.mode }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Of the pod: nothing that changes with the chart's version alone, as that would restart it. */}}
{{- define "quotad.podLabels" -}}
{{ include "quotad.selector" . }}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end }}

{{/* What a container of quotad is in both modes: all but its name, its resources and what only one mode has. */}}
{{- define "quotad.container" -}}
image: {{ include "quotad.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - --config
  - /config/quotad.yaml
  {{- if .Values.createDataFile }}
  - --create
  {{- end }}
env:
  - name: GOMEMLIMIT
    value: {{ .Values.goMemLimit | quote }}
  - name: QUOTAD_SERVER
    value: {{ printf "unix://%s" (include "quotad.controlSocket" .) }} # of quotactl, by kubectl exec
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
startupProbe:
  grpc: {port: 7072}
  periodSeconds: 2
  failureThreshold: 150
readinessProbe:
  grpc: {port: 7072}
  periodSeconds: 5
livenessProbe:
  httpGet: {path: /healthz, port: 7071, httpHeaders: [{name: Host, value: localhost}]}
  periodSeconds: 10
  failureThreshold: 6
securityContext:
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "quotad.image" -}}
{{- $repository := required "image.repository is where your cluster gets quotad's image" .Values.image.repository -}}
{{- if .Values.image.digest -}}{{ printf "%s@%s" $repository .Values.image.digest }}
{{- else -}}{{ printf "%s:%s" $repository (required "image.tag (or image.digest) is the release of quotad to run" .Values.image.tag) }}{{- end -}}
{{- end }}

{{- define "quotad.controlSocket" -}}
{{- ternary "/run/quotad/control.sock" "/run/quotad-control/control.sock" (eq .Values.mode "shared") -}}
{{- end }}

{{- define "quotad.podSecurity" -}}
runAsNonRoot: true
{{- if eq .Values.mode "shared" }}
runAsUser: 65532
runAsGroup: 65532
{{- end }}
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "quotad.claim" -}}
accessModes: [{{ .Values.persistence.accessMode }}]
{{- with .Values.persistence.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.persistence.size }}
{{- end }}

{{/* quotad's configuration: what the mode needs, and then what was asked for. */}}
{{- define "quotad.config" -}}
{{- $mode := dict "data" "/data" "control-listen" (printf "unix://%s" (include "quotad.controlSocket" .)) "admin-listen" (printf "%s:7071" .Values.bindAddress) "admin-remote" "true" "probe-listen" (printf "%s:7072" .Values.bindAddress) "policy" "/config/policy.yaml" "buckets" "/config/buckets.yaml" "log-format" "json" -}}
{{- if eq .Values.mode "shared" -}}
{{- $mode = merge (dict "listen" (printf "%s:7070" .Values.bindAddress) "tls-cert" "/tls/tls.crt" "tls-key" "/tls/tls.key" "tls-client-ca" "/tls/ca.crt") $mode -}}
{{- else -}}
{{- $mode = merge (dict "listen" "unix:///run/quotad/quotad.sock" "socket-mode" "0660") $mode -}}
{{- end -}}
{{- toYaml (merge $mode .Values.config) -}}
{{- end }}

{{- define "quotad.policy" -}}
{{- $principals := dict "operators" (dict "is" (list "uid:65532") "may" (dict "inspect" (list "**") "admin" (list "**"))) -}}
{{- if eq .Values.mode "sidecar" -}}
{{- $_ := set $principals "app" (dict "is" (list (printf "uid:%d" (int64 .Values.app.uid))) "may" (dict "acquire" .Values.app.buckets "settle" .Values.app.buckets "inspect" .Values.app.buckets)) -}}
{{- end -}}
{{- toYaml (dict "principals" (merge $principals .Values.principals)) -}}
{{- end }}
